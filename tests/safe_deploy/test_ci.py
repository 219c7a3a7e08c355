"""Outputs, summaries and annotations, read back as the CI systems read them: the files and `::` lines of GitHub's
runner, and the `##vso[` lines of Azure Pipelines' agent."""

import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_deploy.ci import AzurePipelines, CiSystem, GitHubActions, Terminal, detect_ci_system
from safe_deploy.sanitization import escape_unprintable, neutralize_ci_commands, sanitize_line
from state_api.domain.names import RUN_URL_PATTERN

GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "contoso/orders",
    "GITHUB_RUN_ID": "1658821493",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_ACTOR": "octocat",
}
AZURE = {
    "TF_BUILD": "True",
    "SYSTEM_COLLECTIONURI": "https://dev.azure.com/contoso/",
    "SYSTEM_TEAMPROJECT": "Größe & Co/Ü?",
    "SYSTEM_TEAMPROJECTID": "0807fc91-3b1c-4c5e-9d55-1b1a3d6f2a11",
    "BUILD_BUILDID": "311",
    "BUILD_REQUESTEDFOR": "Jo Doe",
}
RELEASE = {
    "RELEASE_RELEASEWEBURL": "https://dev.azure.com/contoso/0807fc91/_release?releaseId=5&_a=release-summary",
    "RELEASE_DEPLOYMENT_REQUESTEDFOR": "Sam Roe",
}
GITLAB = {
    "GITLAB_CI": "true",
    "CI_PIPELINE_URL": "https://gitlab.example/contoso/orders/-/pipelines/42",
    "CI_JOB_URL": "https://gitlab.example/contoso/orders/-/jobs/77",
    "GITLAB_USER_LOGIN": "ada",
}
BUILDKITE = {
    "BUILDKITE": "true",
    "BUILDKITE_BUILD_URL": "https://buildkite.com/contoso/orders/builds/42",
    "BUILDKITE_BUILD_CREATOR": "Ada Lovelace",
    "BUILDKITE_RETRY_COUNT": "1",
}
BITBUCKET = {
    "BITBUCKET_BUILD_NUMBER": "42",
    "BITBUCKET_STEP_RUN_NUMBER": "2",
    "BITBUCKET_REPO_FULL_NAME": "contoso/orders",
    "BITBUCKET_STEP_TRIGGERER_UUID": "{5f1c}",
}
JENKINS = {"JENKINS_URL": "https://ci.example/", "BUILD_URL": "https://ci.example/job/Orders%20main/42/"}
GITHUB_RUN = "https://github.com/contoso/orders/actions/runs/1658821493"
AZURE_RUN = "https://dev.azure.com/contoso/0807fc91-3b1c-4c5e-9d55-1b1a3d6f2a11/_build/results?buildId=311"

commands = ["::", "::error::", "##[", "##VSO[", "##vso["]
escapes = ["%0A", "%3B", "%25", "%AZP25", "AZP25", "<<", "end"]
pieces = [*"\r\n\t \x85\u2028:#;=]%x", *commands, *escapes]
anything = st.text() | st.lists(st.sampled_from(pieces)).map("".join)
names = st.from_regex(r"[a-z]{1,8}(-[a-z]{1,8}){0,2}", fullmatch=True)


def detect(environment: Mapping[str, str]) -> tuple[CiSystem, StringIO]:
    """The CI system of these environment variables, and the stream that it writes to."""
    stderr = StringIO()
    return detect_ci_system(environment, stderr), stderr


def parse_outputs(text: str) -> list[tuple[str, str]]:
    """The outputs in a GITHUB_OUTPUT file as the runner reads them (EnvFileKeyValuePairs, on Linux)."""
    pairs = []
    while text:
        line, _, text = text.partition("\n")
        first = re.search("=|<<", line)
        if first is None:
            assert not line, f"the runner fails the step over {line!r}"
            continue
        name, rest = line[: first.start()], line[first.end() :]
        if first[0] == "<<":
            assert name
            assert rest
            value, end, text = f"\n{text}".partition(f"\n{rest}\n")
            assert end, "matching delimiter not found"
            rest = value.removeprefix("\n")
        pairs.append((name, rest))
    return pairs


def read_lines(stderr: StringIO) -> list[str]:
    """The lines of stderr as .NET reads them."""
    *lines, rest = re.split("\r\n|\r|\n", stderr.getvalue())
    assert not rest
    return lines


def parse_github_command(line: str) -> tuple[str, str]:
    """The command with its properties, and its data, as GitHub's runner reads them."""
    assert line.startswith("::")
    command, _, data = line[2:].partition("::")
    return command, data.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")


def parse_azure_command(line: str) -> tuple[str, dict[str, str], str]:
    """The command, its properties and its data, as the agent reads them."""
    info, closed, data = line[line.index("##vso[") + 6 :].partition("]")
    assert closed
    command, _, properties = info.partition(" ")
    pairs = (pair.partition("=") for pair in properties.split(";") if pair)
    return command, {name: unescape_azure(value) for name, _, value in pairs}, unescape_azure(data)


def unescape_azure(text: str) -> str:
    """The text of a logging command as the agent of Azure Pipelines reads it."""
    for escaped, character in (("%3B", ";"), ("%0D", "\r"), ("%0A", "\n"), ("%5D", "]"), ("%AZP25", "%")):
        text = text.replace(escaped, character)
    return text


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (GITHUB, "GitHub Actions"),
        (AZURE, "Azure Pipelines"),
        (AZURE | {"TF_BUILD": "true"}, "Azure Pipelines"),
        ({}, "terminal"),
        ({"CI": "true"}, "terminal"),
        (GITHUB | {"GITHUB_ACTIONS": ""}, "terminal"),
        (GITLAB, "GitLab CI"),
        (BUILDKITE, "Buildkite"),
        (BITBUCKET, "Bitbucket Pipelines"),
        (JENKINS, "Jenkins"),
        ({"BUILD_URL": "https://elsewhere.example/"}, "terminal"),
        (AZURE | {"TF_BUILD": "False"}, "terminal"),
    ],
)
def test_a_ci_system_is_detected_by_its_variables(environment: dict[str, str], name: str) -> None:
    assert detect(environment)[0].name == name


@pytest.mark.parametrize(
    ("environment", "run_url"),
    [
        (GITHUB, GITHUB_RUN),
        (GITHUB | {"GITHUB_RUN_ATTEMPT": "3"}, GITHUB_RUN),
        (
            GITHUB | {"GITHUB_SERVER_URL": "https://ghes.local:8443/"},
            "https://ghes.local:8443/contoso/orders/actions/runs/1658821493",
        ),
        (GITHUB | {"GITHUB_RUN_ID": ""}, None),
        (AZURE, AZURE_RUN),
        (AZURE | {"SYSTEM_COLLECTIONURI": "https://dev.azure.com/contoso"}, AZURE_RUN),
        (
            AZURE | {"SYSTEM_COLLECTIONURI": "http://tfs:8080/tfs/Default Collection/"},
            "http://tfs:8080/tfs/Default%20Collection/0807fc91-3b1c-4c5e-9d55-1b1a3d6f2a11/_build/results?buildId=311",
        ),
        (AZURE | {"BUILD_BUILDID": ""}, None),
        (AZURE | RELEASE, RELEASE["RELEASE_RELEASEWEBURL"]),
        (GITLAB, GITLAB["CI_PIPELINE_URL"]),
        (BUILDKITE, BUILDKITE["BUILDKITE_BUILD_URL"]),
        (BITBUCKET, "https://bitbucket.org/contoso/orders/pipelines/results/42"),
        (BITBUCKET | {"BITBUCKET_REPO_FULL_NAME": ""}, None),
        (JENKINS, JENKINS["BUILD_URL"]),
        # Jenkins does not set BUILD_URL while its own URL is not configured.
        (JENKINS | {"BUILD_URL": ""}, None),
        ({}, None),
    ],
)
def test_the_run_url_is_the_same_for_every_attempt(environment: dict[str, str], run_url: str | None) -> None:
    """The run URL comes from variables of the CI system, and is None if one of them is empty."""
    system, stderr = detect(environment)
    assert system.run_url == run_url
    assert not stderr.getvalue()


@pytest.mark.parametrize(
    "environment",
    [
        AZURE | {"SYSTEM_COLLECTIONURI": "https://me:s3cret@dev.azure.com/contoso/"},
        AZURE | {"SYSTEM_COLLECTIONURI": "ftp://s3cret/"},
        AZURE | {"SYSTEM_COLLECTIONURI": "https://s3crét.example/"},
        AZURE | {"SYSTEM_TEAMPROJECTID": "s3cret" * 400},
        GITHUB | {"GITHUB_SERVER_URL": "s3cret"},
        GITLAB | {"CI_PIPELINE_URL": "https://me:s3cret@gitlab.example/orders/-/pipelines/42"},
    ],
)
def test_a_run_url_that_the_server_refuses_is_omitted_with_a_warning_that_does_not_show_it(
    environment: dict[str, str],
) -> None:
    system, stderr = detect(environment)
    assert system.run_url is None
    assert "does not accept the URL of this run" in stderr.getvalue()
    assert "s3" not in stderr.getvalue()


@settings(deadline=None)
@given(collection=anything, project=anything, release=anything)
def test_every_run_url_that_is_sent_matches_the_pattern_of_the_server(
    collection: str, project: str, release: str
) -> None:
    for changed in (
        {"SYSTEM_COLLECTIONURI": f"https://{collection}"},
        {"SYSTEM_TEAMPROJECTID": project},
        {"RELEASE_RELEASEWEBURL": f"https://server/{release}"},
    ):
        sent = detect(AZURE | changed)[0].run_url
        assert sent is None or (re.search(RUN_URL_PATTERN, sent) and sent.isascii() and len(sent) <= 2000)


@pytest.mark.parametrize(
    ("environment", "actor"),
    [
        (GITHUB, "octocat"),
        (GITHUB | {"GITHUB_TRIGGERING_ACTOR": "dependabot[bot]"}, "dependabot[bot]"),
        (GITHUB | {"GITHUB_TRIGGERING_ACTOR": ""}, "octocat"),
        (AZURE, "Jo Doe"),
        (AZURE | {"BUILD_REQUESTEDFOREMAIL": "jo@contoso.com"}, "jo@contoso.com"),
        (AZURE | {"BUILD_REQUESTEDFOR": "José Müller"}, "Jose Muller"),
        (AZURE | {"BUILD_REQUESTEDFOR": "Łukasz Øst"}, "?ukasz ?st"),
        (AZURE | {"BUILD_REQUESTEDFOR": "田中 太郎", "BUILD_REQUESTEDFORID": "58d417da"}, "58d417da"),
        (AZURE | {"BUILD_REQUESTEDFOR": "田中 太郎"}, None),
        (AZURE | {"BUILD_REQUESTEDFOR": "Jo\r\nX-Evil:\x00 1"}, "Jo X-Evil: 1"),
        (AZURE | {"BUILD_REQUESTEDFOR": "Jo" * 200}, "Jo" * 100),
        (AZURE | RELEASE, "Sam Roe"),
        (GITLAB, "ada"),
        (BUILDKITE, "Ada Lovelace"),
        (BITBUCKET, "{5f1c}"),
        (JENKINS, None),
        ({}, None),
    ],
)
def test_the_actor_is_who_started_this_attempt_in_ascii(environment: dict[str, str], actor: str | None) -> None:
    assert detect(environment)[0].actor == actor


@settings(deadline=None)
@given(st.text(st.characters()))
def test_every_actor_is_a_valid_header_value(name: str) -> None:
    actor = detect(AZURE | {"BUILD_REQUESTEDFOR": name})[0].actor
    assert actor is None or (re.fullmatch("[!-~]([ -~]*[!-~])?", actor) and len(actor) <= 200)


@pytest.mark.parametrize("environment", [GITLAB, BUILDKITE, BITBUCKET, JENKINS, {}])
def test_other_ci_systems_receive_no_outputs_summaries_or_annotations(environment: dict[str, str]) -> None:
    system, stderr = detect(environment)
    system.set_outputs({"ready": "true"})
    system.write_summary("# Done")
    system.error("wrong")
    system.warning("strange")
    assert not stderr.getvalue()


def test_outputs_and_summaries_are_appended_to_the_files_of_github(tmp_path: Path) -> None:
    output, summary = tmp_path / "output", tmp_path / "summary"
    output.write_text("earlier=1\n")
    summary.write_text("# Earlier\n")
    system, stderr = detect(GITHUB | {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)})
    system.set_outputs({"ready": "false", "task-hub": "", "reasons": "InstancesActive,Settling"})
    system.write_summary("| Größe |\n|---|")
    assert output.read_text() == "earlier=1\nready=false\ntask-hub=\nreasons=InstancesActive,Settling\n"
    assert summary.read_text(encoding="utf-8") == "# Earlier\n| Größe |\n|---|\n\n"
    assert not stderr.getvalue()


@settings(deadline=None)
@given(values=st.dictionaries(names, anything))
def test_github_reads_every_output_as_one_printable_line(
    values: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path_factory.mktemp("github") / "output"
    detect(GITHUB | {"GITHUB_OUTPUT": str(output)})[0].set_outputs(values)
    assert parse_outputs(output.read_bytes().decode()) == [
        (name, escape_unprintable(value)) for name, value in values.items()
    ]


@pytest.mark.parametrize("place", ["", "missing/file", "."])
def test_missing_files_are_a_warning_on_github(place: str, tmp_path: Path) -> None:
    file = str(tmp_path / place) if place else ""
    system, stderr = detect(GITHUB | {"GITHUB_OUTPUT": file, "GITHUB_STEP_SUMMARY": file})
    system.set_outputs({"ready": "true"})
    system.write_summary("done")
    output_warning, summary_warning = map(parse_github_command, read_lines(stderr))
    assert output_warning[0] == summary_warning[0] == "warning title=safe-deploy"
    assert "GITHUB_OUTPUT" in output_warning[1]
    assert "GITHUB_STEP_SUMMARY" in summary_warning[1]


@settings(deadline=None)
@given(message=anything)
def test_github_reads_every_message_from_one_line(message: str) -> None:
    system, stderr = detect(GITHUB)
    system.error(message)
    system.warning(message)
    assert list(map(parse_github_command, read_lines(stderr))) == [
        ("error title=safe-deploy", sanitize_line(message)),
        ("warning title=safe-deploy", sanitize_line(message)),
    ]


def test_azure_pipelines_receives_logging_commands() -> None:
    system, stderr = detect(AZURE)
    system.set_outputs({"ready": "true", "staging-task-hub": "v42"})
    system.error("100 %\nfailed; see [1]")
    system.warning("late")
    assert read_lines(stderr) == [
        "##vso[task.setvariable variable=ready;isOutput=true]true",
        "##vso[task.setvariable variable=stagingTaskHub;isOutput=true]v42",
        "##vso[task.logissue type=error]100 %AZP25\\nfailed; see [1]",
        "##vso[task.logissue type=warning]late",
    ]


@settings(deadline=None)
@given(values=st.dictionaries(st.text("abc];%=\r\n", min_size=1), anything), message=anything)
def test_the_agent_reads_every_text_as_one_printable_line(values: dict[str, str], message: str) -> None:
    system, stderr = detect(AZURE)
    system.set_outputs(values)
    system.error(message)
    *logging_commands, last = map(parse_azure_command, read_lines(stderr))
    assert logging_commands == [
        ("task.setvariable", {"variable": name, "isOutput": "true"}, neutralize_ci_commands(escape_unprintable(value)))
        for name, value in values.items()
    ]
    assert last == ("task.logissue", {"type": "error"}, sanitize_line(message))


def test_azure_pipelines_uploads_each_summary_from_its_own_file(tmp_path: Path) -> None:
    system, stderr = detect(AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)})
    system.write_summary("| Größe |")
    system.write_summary("second")
    logging_commands = list(map(parse_azure_command, read_lines(stderr)))
    assert [command for command, _, _ in logging_commands] == ["task.uploadsummary"] * 2
    assert [Path(path).read_text(encoding="utf-8") for _, _, path in logging_commands] == ["| Größe |\n", "second\n"]


@pytest.mark.parametrize("place", ["", "missing"])
def test_a_missing_directory_for_summaries_is_a_warning_in_azure_pipelines(place: str, tmp_path: Path) -> None:
    system, stderr = detect(AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path / place) if place else ""})
    system.write_summary("done")
    ((command, properties, data),) = map(parse_azure_command, read_lines(stderr))
    assert (command, properties) == ("task.logissue", {"type": "warning"})
    assert "AGENT_TEMPDIRECTORY" in data


def test_a_terminal_receives_no_outputs_summaries_or_annotations() -> None:
    system, stderr = detect({"GITHUB_OUTPUT": "/nowhere", "AGENT_TEMPDIRECTORY": "/nowhere"})
    system.set_outputs({"ready": "true"})
    system.write_summary("done")
    system.error("failed")
    system.warning("late")
    assert isinstance(system, Terminal)
    assert not stderr.getvalue()


def test_every_ci_system_implements_the_protocol() -> None:
    systems: list[CiSystem] = [detect(environment)[0] for environment in (GITHUB, AZURE, {})]
    assert [type(system) for system in systems] == [GitHubActions, AzurePipelines, Terminal]
