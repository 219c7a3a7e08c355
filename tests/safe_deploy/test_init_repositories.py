"""`safe-deploy init` in repositories of all kinds: remotes, folders, files of other tools, links, read-only files."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from tests.safe_deploy.app_repository import (
    ANSWERS,
    HOST_JSON,
    POLICY,
    SERVER,
    WORKFLOW,
    AppRepository,
    create_app_repository,
)

AZURE_PIPELINE = ".azure-pipelines/safe-deploy.yml"


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[AppRepository]:
    yield from create_app_repository(tmp_path)


def test_a_folder_without_a_repository_is_refused(repository: AppRepository) -> None:
    shutil.rmtree(repository.root / ".git")
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.USAGE
    assert "is not in a work tree of git" in result.stderr
    assert sorted(repository.snapshot()) == ["host.json"]


def test_without_git_the_command_says_what_is_missing(repository: AppRepository) -> None:
    repository.uninstall("git")
    result = repository.init("--yes", *ANSWERS)
    assert (result.code, "git is not on the PATH" in result.stderr) == (ExitCode.USAGE, True)


def test_without_a_remote_the_ci_system_must_be_an_answer(repository: AppRepository) -> None:
    """The key cannot be stored, because no repository on GitHub is known."""
    repository.git("remote", "remove", "origin")
    result = repository.init("--yes", *ANSWERS)
    assert (result.code, "--ci (CI system" in result.stderr) == (ExitCode.USAGE, True)
    result = repository.init("--yes", "--ci", "github", *ANSWERS)
    assert result.code == ExitCode.DONE, result.stderr
    assert "the git remote names no repository on GitHub" in result.stdout
    assert repository.fake_github.calls == []


def test_of_several_remotes_origin_counts_and_another_one_can_be_named(repository: AppRepository) -> None:
    repository.git("remote", "add", "upstream", "https://dev.azure.com/acme/shop/_git/shop")
    assert repository.init("--yes", "--dry-run", *ANSWERS).stdout.startswith("--- /dev/null\n+++ b/.github/")
    assert repository.init("--yes", "--remote", "upstream", *ANSWERS).code == ExitCode.DONE
    assert AZURE_PIPELINE in repository.snapshot()
    result = repository.init("--yes", "--remote", "fork", *ANSWERS)
    assert (result.code, "origin, upstream" in result.stderr) == (ExitCode.USAGE, True)


def test_of_several_remotes_without_origin_one_is_asked_for(repository: AppRepository) -> None:
    repository.git("remote", "rename", "origin", "fork")
    repository.git("remote", "add", "upstream", "https://dev.azure.com/acme/shop/_git/shop")
    result = repository.init("--yes", *ANSWERS)
    assert (result.code, "--remote (Remote of" in result.stderr) == (ExitCode.USAGE, True)


def test_the_default_branch_of_the_remote_is_released(repository: AppRepository) -> None:
    """Without it, it is the branch that is checked out."""
    repository.git("checkout", "-b", "feature")
    assert "branches: [feature]" in repository.init("--yes", "--dry-run", *ANSWERS).stdout
    repository.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk")
    assert "branches: [trunk]" in repository.init("--yes", "--dry-run", *ANSWERS).stdout
    assert "branches: [next]" in repository.init("--yes", "--dry-run", "--branch", "next", *ANSWERS).stdout


def test_a_linked_worktree_with_a_detached_head(repository: AppRepository, tmp_path: Path) -> None:
    """The files are written into that worktree."""
    repository.git("add", "--all")
    repository.git("commit", "--message", "An app")
    repository.git("worktree", "add", "--detach", str(repository.root / "linked"))
    result = repository.init("--yes", *ANSWERS, folder="linked")
    assert result.code == ExitCode.DONE, result.stderr
    assert "HEAD is detached" in result.stderr
    assert "branches: [main]" in repository.read(f"linked/{WORKFLOW}")
    assert not (repository.root / WORKFLOW).exists()


def test_an_app_in_a_folder_has_files_of_its_own(repository: AppRepository) -> None:
    """The workflow is in the root, where GitHub looks for it, and packs the folder. Two apps have two environments."""
    (repository.root / "host.json").rename(repository.root / "moved")
    repository.write("services/shop/host.json", HOST_JSON)
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.DONE, result.stderr
    workflow = repository.read(".github/workflows/safe-deploy-shop-4711.yml")
    assert "run: cd services/shop && zip" in workflow
    assert "environment: production-shop-4711" in workflow
    assert "notifications" in repository.read("services/shop/host.json")
    assert f"services/shop/{POLICY}" in repository.snapshot()
    assert list(repository.fake_github.branches("acme/shop")) == ["production-shop-4711"]


def test_of_several_apps_the_one_of_the_folder_counts_or_one_must_be_named(repository: AppRepository) -> None:
    repository.write("services/mail/host.json", HOST_JSON)
    result = repository.init("--yes", *ANSWERS, folder="services")
    assert result.code == ExitCode.USAGE
    assert "--folder (Folder of" in result.stderr
    result = repository.init("--yes", *ANSWERS, folder="services/mail")
    assert result.code == ExitCode.DONE, result.stderr
    assert "notifications" in repository.read("services/mail/host.json")
    assert repository.read("host.json") == HOST_JSON
    assert repository.init("--yes", *ANSWERS, "--folder", ".", folder="services").code == ExitCode.DONE
    assert "notifications" in repository.read("host.json")


@pytest.mark.parametrize("folder", ["missing", "../shop", "a;b", "$(x)"])
def test_a_folder_without_an_app_is_refused(repository: AppRepository, folder: str) -> None:
    result = repository.init("--yes", *ANSWERS, "--folder", folder)
    assert (result.code, "--folder" in result.stderr) == (ExitCode.USAGE, True)


def test_a_repository_without_an_app_is_refused(repository: AppRepository) -> None:
    """An ignored host.json, such as that of a build, is no app."""
    (repository.root / "host.json").unlink()
    repository.write(".gitignore", "bin/\n")
    repository.write("bin/host.json", HOST_JSON)
    result = repository.init("--yes", *ANSWERS)
    assert (result.code, "the repository has no host.json" in result.stderr) == (ExitCode.USAGE, True)


def test_comments_and_line_breaks_of_host_json_stay(repository: AppRepository) -> None:
    text = HOST_JSON.replace('"%TASK_HUB%"', '"%TASK_HUB%" // set by the pipeline').replace("\n", "\r\n")
    repository.write("host.json", text)
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    changed = repository.read("host.json")
    assert '"%TASK_HUB%", // set by the pipeline\r\n      "notifications": {\r\n' in changed
    assert changed.count("\n") == changed.count("\r\n")


@pytest.mark.parametrize("text", ["{", '{"version": "2.0",, }', '{"version": "1.0"}', "\xff"])
def test_a_host_json_that_cannot_be_read_is_refused_before_anything_is_written(
    repository: AppRepository, text: str
) -> None:
    (repository.root / "host.json").write_bytes(text.encode("latin-1"))
    before = repository.snapshot()
    result = repository.init("--yes", *ANSWERS)
    assert result.code in {ExitCode.USAGE, ExitCode.FAILURE}
    assert "error: host.json " in result.stderr
    assert repository.snapshot() == before


def test_a_read_only_file_is_refused_before_anything_is_written(repository: AppRepository) -> None:
    (repository.root / "host.json").chmod(0o444)
    before = repository.snapshot()
    result = repository.init("--yes", *ANSWERS)
    assert (result.code, "host.json is read-only" in result.stderr) == (ExitCode.FAILURE, True)
    assert repository.snapshot() == before


def test_a_file_keeps_its_mode(repository: AppRepository) -> None:
    (repository.root / "host.json").chmod(0o600)
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    assert (repository.root / "host.json").stat().st_mode & 0o777 == 0o600


def test_a_file_in_the_way_of_a_folder_is_an_error(repository: AppRepository) -> None:
    repository.write(".github", "no folder")
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.FAILURE
    assert f"{WORKFLOW}:" in result.stderr


@pytest.mark.parametrize("link", [".github", "host.json"])
def test_nothing_is_written_through_a_link_out_of_the_repository(
    repository: AppRepository, tmp_path: Path, link: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "host.json").write_text(HOST_JSON)
    target = outside / "host.json" if link == "host.json" else outside
    (repository.root / link).unlink(missing_ok=True)
    (repository.root / link).symlink_to(target)
    result = repository.init("--yes", *ANSWERS)
    assert (result.code, "leads out of the repository by a symbolic link" in result.stderr) == (ExitCode.FAILURE, True)
    assert [path.name for path in outside.rglob("*")] == ["host.json"]
    assert (outside / "host.json").read_text() == HOST_JSON


def test_a_link_inside_the_repository_stays_a_link(repository: AppRepository) -> None:
    (repository.root / "host.json").rename(repository.root / "host.shared.json")
    (repository.root / "host.json").symlink_to("host.shared.json")
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    assert (repository.root / "host.json").is_symlink()
    assert "notifications" in repository.read("host.shared.json")


def test_a_workflow_of_another_tool_is_left_alone_and_named(repository: AppRepository) -> None:
    text = "jobs:\n  deploy:\n    steps:\n      - uses: Azure/functions-action@v1\n"
    repository.write(".github/workflows/main_shop.yml", text)
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.DONE, result.stderr
    assert "deploys a function app without waiting" in result.stdout
    assert repository.read(".github/workflows/main_shop.yml") == text


def test_a_workflow_that_uses_safe_deploy_already_is_not_joined_by_a_second_one(repository: AppRepository) -> None:
    text = "jobs:\n  deploy:\n    steps:\n      - uses: your-org/safe-deploy@COMMIT\n"
    repository.write(".github/workflows/release.yml", text)
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.DONE, result.stderr
    assert "it uses safe-deploy already" in result.stdout
    assert WORKFLOW not in repository.snapshot()
    # Of several apps it may be that of another one.
    repository.write("mail/host.json", HOST_JSON)
    assert repository.init("--yes", *ANSWERS).code == ExitCode.DONE
    assert WORKFLOW in repository.snapshot()


def test_a_file_of_another_tool_at_the_path_of_the_workflow_is_not_replaced(repository: AppRepository) -> None:
    repository.write(WORKFLOW, "name: mine\n")
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.CONFLICT
    assert repository.read(WORKFLOW) == "name: mine\n"


def test_azure_repos_get_a_pipeline_and_the_command_for_the_key(repository: AppRepository) -> None:
    repository.git("remote", "set-url", "origin", "git@ssh.dev.azure.com:v3/acme/shop/shop")
    commit = "0123456789abcdef0123456789abcdef01234567"
    result = repository.init("--yes", "--server", SERVER, "--action", f"acme/safe-deploy@{commit}")
    assert (result.code, "--action takes a tag" in result.stderr) == (ExitCode.USAGE, True)
    result = repository.init("--yes", *ANSWERS)
    assert result.code == ExitCode.DONE, result.stderr
    pipeline = repository.read(AZURE_PIPELINE)
    assert f'server: "{SERVER}"' in pipeline
    assert "safe-deploy keys new --role deployer --app shop-4711 --name pipeline-shop-4711-" in result.stdout
    assert repository.fake_github.calls == []


def test_an_app_on_flex_consumption_gets_releases_side_by_side(repository: AppRepository) -> None:
    app = {"resourceGroup": "shop-rg", "plan": "ASP-shop", "slots": {"production": {"settings": {}}}}
    repository.fake_azure.reset({"shop-4711": app})
    place = ("--storage-account", "shopreleases", "--router-address", "203.0.113.7/32")
    result = repository.init("--yes", *ANSWERS, *place)
    assert result.code == ExitCode.DONE, result.stderr
    names = {path.removeprefix(".github/workflows/") for path in repository.snapshot() if ".github/" in path}
    assert names == {"side-by-side.yml", "side-by-side-rollback.yml", "side-by-side-retire.yml"}
    assert repository.fake_github.variables("acme/shop")["LOCATION"] == "westeurope"
    keys = {name: repository.fake_github.secrets("acme/shop", name) for name in ("release", "production", "rollback")}
    assert len({json.dumps(secrets) for secrets in keys.values()}) == 1, "one key for the pipeline"
    assert repository.init("--yes").code == ExitCode.DONE


def test_a_second_app_side_by_side_is_refused_because_it_would_be_released_as_the_first(
    repository: AppRepository,
) -> None:
    """The workflows of both apps would read the repository variable APP, which names the first app."""
    place = ("--location", "westeurope", "--storage-account", "shopreleases", "--router-address", "203.0.113.7/32")
    answers = (*ANSWERS, *place, "--model", "side-by-side", "--resource-group", "shop-rg")
    assert repository.init("--yes", *answers, "--app", "shop").code == ExitCode.DONE
    repository.write("mail/host.json", HOST_JSON)
    before = repository.snapshot()
    result = repository.init("--yes", *answers, "--app", "mail", folder="mail")
    assert (result.code, repository.snapshot()) == (ExitCode.USAGE, before)
    assert "so mail would be released as shop" in result.stderr
    assert repository.init("--yes", "--folder", ".").code == ExitCode.DONE


@pytest.mark.parametrize(
    ("message", "code"), [("Please run 'az login' to setup account.", 1), ("(AuthorizationFailed) no\nCode: x", 1)]
)
def test_what_az_does_not_show_is_asked(repository: AppRepository, message: str, code: int) -> None:
    repository.fake_azure.set_fault("all", exit_code=code, message=message)
    result = repository.init("--yes", *ANSWERS)
    assert (result.code, "--function-app (Function app" in result.stderr) == (ExitCode.USAGE, True)
    assert "Azure: not read, because az is not" in result.stderr
    answers = ("--function-app", "shop", "--resource-group", "rg", "--model", "slots")
    result = repository.init("--yes", *ANSWERS, *answers)
    assert result.code == ExitCode.DONE, result.stderr
    assert "TENANT" not in repository.fake_github.variables("acme/shop")


def test_without_az_everything_is_asked(repository: AppRepository) -> None:
    repository.uninstall("az")
    conversation = repository.answer("shop\nslots\nshop-rg\n\ny\ny\n", *ANSWERS)
    assert conversation.code == ExitCode.DONE, conversation.terminal
    assert "az, the Azure CLI, is not on the PATH" in conversation.terminal
    assert '--resource-group shop-rg --name shop --slot staging"' in repository.read(WORKFLOW)


def test_of_several_function_apps_one_is_asked_for(repository: AppRepository) -> None:
    """A Logic App is none."""
    apps = {name: {"resourceGroup": "shop-rg", "slots": {"production": {}, "staging": {}}} for name in ("mail", "shop")}
    logic = {"resourceGroup": "shop-rg", "kind": "functionapp,workflowapp", "slots": {"production": {}}}
    repository.fake_azure.reset({**apps, "logic": logic})
    result = repository.init("--yes", *ANSWERS)
    assert (result.code, "--function-app (Function app that is deployed (mail, shop)) is missing" in result.stderr) == (
        ExitCode.USAGE,
        True,
    )


def test_a_password_in_the_url_of_a_remote_is_never_shown(repository: AppRepository) -> None:
    repository.git("remote", "set-url", "origin", "https://octocat:hunter2@github.com/acme/shop.git")
    result = repository.init("--yes", *ANSWERS, "--output", "json")
    assert result.code == ExitCode.DONE, result.stderr
    assert "hunter2" not in result.stdout + result.stderr
    assert all(b"hunter2" not in body for body in repository.snapshot().values())


def test_the_commit_of_the_tag_of_this_version_is_named(
    repository: AppRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git reads the tag of the repository on GitHub, for which a local repository stands."""
    origin = tmp_path / "github" / "acme" / "safe-deploy"
    origin.mkdir(parents=True)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com", "-C", str(origin)]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"], ["tag", "-a", "v9.9.9", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr("safe_deploy.setup.interview.read_release_tag", lambda: "v9.9.9")
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "{origin}"]\n\tinsteadOf = https://github.com/acme/safe-deploy\n')
    arguments = ("--yes", "--server", SERVER, "--action", "acme/safe-deploy")
    result = repository.init(*arguments, GIT_CONFIG_GLOBAL=str(config))
    assert result.code == ExitCode.DONE, result.stderr
    assert repository.read(WORKFLOW).count(f"uses: acme/safe-deploy@{commit} # v9.9.9\n") == 2
    result = repository.init("--yes")
    assert (result.code, "nothing has changed" in result.stdout) == (ExitCode.DONE, True)
