"""Every command against a real server with keys: results, exit codes, variables, CI systems, and secrets."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_deploy.client import Caller, Server
from safe_deploy.errors import ConflictError, ExitCode, Unreachable, UsageError
from tests.builders import event
from tests.conftest import new_hub
from tests.safe_deploy.between import Answer, between
from tests.safe_deploy.place import RUN, Place
from tests.safe_deploy.processes import KEYS, Ended, safe_deploy

GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "shop/orders",
    "GITHUB_RUN_ID": "4711",
    "GITHUB_ACTOR": "octocat",
}
GITHUB_RUN = "https://github.com/shop/orders/actions/runs/4711"
AZURE = {
    "TF_BUILD": "True",
    "SYSTEM_COLLECTIONURI": "https://dev.azure.com/shop/",
    "SYSTEM_TEAMPROJECTID": "0807fc91-3b1c-4c5e-9d55-1b1a3d6f2a11",
    "BUILD_BUILDID": "17",
    "BUILD_REQUESTEDFOREMAIL": "anna@shop.example",
}
AZURE_RUN = "https://dev.azure.com/shop/0807fc91-3b1c-4c5e-9d55-1b1a3d6f2a11/_build/results?buildId=17"
EVIL = "[red]x[/nope] ##vso[task.setvariable variable=a]b\n::error::c|d\x1b[2J:heart:\r##[error]\u202e\\"
"""An instance id that would like to be markup, a command of a CI system, a row and a terminal's command."""


def lines(text: str) -> list[str]:
    """Rows of a table, by their cells."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def github(folder: Path) -> dict[str, str]:
    files = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary"}
    for file in files.values():
        file.touch()
    return GITHUB | {name: str(file) for name, file in files.items()}


def outputs(folder: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())


# --- results ---


def test_status_of_an_empty_slot_is_ready(place: Place) -> None:
    place.register()
    ended = place.call("status", role="reader")
    assert ended == Ended(0, "Ready: slot staging (empty), by lifecycle events alone\n", "")


def test_status_shows_who_blocks(place: Place) -> None:
    place.register()
    place.publish(event(place.hub, "order-1"))
    ended = place.call("status", "--slot", "production")
    assert ended.code == ExitCode.NOT_READY
    first, *table = lines(ended.stdout)
    assert first.startswith(f"NotReady: slot production (task hub {place.hub}): 1 orchestration instance is active")
    assert table[0] == "Instance Function Status Active for Last event Known by"
    assert re.fullmatch(r"order-1 ProcessOrder Running \d+ s \d+ s event", table[2])
    assert ended.stderr.startswith("error: NotReady: slot production")


def test_status_as_json_is_the_servers_verdict(place: Place) -> None:
    place.register()
    place.publish(event(place.hub))
    ended = place.call("status", "--slot", "production", "--output", "json")
    assert ended.code == ExitCode.NOT_READY
    said, asked = ended.json(), place.ask("GET", "/staging?slot=production")
    assert said.keys() == asked.keys()
    assert said["active"] == asked["active"]
    assert (said["ready"], said["taskHub"], said["activeCount"]) == (False, place.hub, 1)


def test_register_tells_the_server_what_is_in_production(place: Place) -> None:
    ended = place.call("register", "--task-hub", place.hub, "--version", "1.4.0")
    assert ended.code == 0
    assert lines(ended.stdout)[0] == f"slot production of app {place.app} holds task hub {place.hub}"
    assert re.fullmatch(rf"production {place.hub} 1\.4\.0 \S+Z", lines(ended.stdout)[3])
    held = place.ask("GET")["slots"]["production"]
    assert (held["taskHub"], held["version"]) == (place.hub, "1.4.0")


def test_register_switches_verification_on(place: Place) -> None:
    where = ("--provider", "azureStorage", "--connection", "DURABLE_STORAGE", "--require-verification")
    slot = ("--slot", "staging", "--task-hub", place.hub)
    ended = place.call("register", *slot, *where, "--output", "json")
    assert ended.code == 0
    app = ended.json()
    assert app["taskHubs"]["provider"] == "azureStorage"
    assert app["policy"]["requireVerification"] is True
    assert app["slots"]["staging"]["taskHub"] == place.hub


def test_register_refuses_half_of_what_verification_needs(place: Place) -> None:
    for half in (("--provider", "azureStorage"), ("--connection", "DURABLE_STORAGE")):
        ended = place.call("register", "--task-hub", place.hub, *half)
        assert ended.code == ExitCode.USAGE
        assert "--provider and --connection belong together" in ended.stderr


def test_stage_swap_and_rollback_without_commands_keep_the_record(place: Place) -> None:
    place.register()
    hub = new_hub()
    staged = place.call("stage", "--task-hub", hub, "--version", "2", role="deployer")
    assert staged.code == 0
    assert lines(staged.stdout)[0] == f"task hub {hub} is staged into slot staging of app {place.app}"
    done = ("--outcome", "done")
    swapped = place.call("swap", "--task-hub", hub, *done, "--output", "json", role="deployer")
    assert swapped.code == 0
    assert {name: held["taskHub"] for name, held in swapped.json()["slots"].items()} == {
        "production": hub,
        "staging": place.hub,
    }
    for _ in range(2):
        back = place.call("rollback", *done, role="deployer")
        assert back.code == 0
        assert lines(back.stdout)[0] == f"task hub {place.hub} is in production of app {place.app}"


def test_a_deployment_that_is_abandoned_makes_room_for_the_next_run(place: Place) -> None:
    place.register()
    hub = place.stage(new_hub(), 1)
    ended = place.call("abandon", "--task-hub", hub, "--run-url", f"{RUN}1", role="deployer")
    assert ended.code == 0
    assert lines(ended.stdout)[0] == f"the deployment of task hub {hub} into app {place.app} is closed"
    assert place.ask("GET")["deployment"] is None
    assert place.call("stage", "--task-hub", new_hub(), "--run-url", f"{RUN}2", role="deployer").code == 0


def test_cleanup_says_what_it_would_remove_and_removes_it(place: Place) -> None:
    place.register()
    first, second = new_hub(), new_hub()
    for hub in (first, second, new_hub()):
        place.swap(place.stage(hub))
    dry = place.call("cleanup", "--dry-run", role="deployer")
    assert dry.code == 0
    assert [line.split()[0] for line in lines(dry.stdout)[2:]] == [place.hub, first]
    assert [one["taskHub"] for one in place.ask("GET")["retired"]] == [place.hub, first]
    done = place.call("cleanup", "--output", "json", role="deployer")
    assert done.code == 0
    assert [one["taskHub"] for one in done.json()["taskHubs"]] == [place.hub, first]
    assert place.ask("GET")["slots"]["staging"]["taskHub"] == second


def test_cleanup_of_nothing_says_so(place: Place) -> None:
    place.register()
    assert place.call("cleanup").stdout == "no task hub is retired\n"


def test_task_hubs_are_not_deleted_by_a_server_that_does_not_know_where_they_live(place: Place) -> None:
    place.register()
    ended = place.call("cleanup", "--delete-task-hubs")
    assert ended.code == ExitCode.USAGE
    assert "set taskHubs" in ended.stderr


def test_instances_are_the_active_ones_of_the_slot_unless_asked_otherwise(place: Place) -> None:
    place.register()
    ended_one = [event(place.hub, "old"), event(place.hub, "old", "Completed"), event(place.hub, "bad", "Failed")]
    place.publish(event(place.hub, "new"), *ended_one)

    def shown(*options: str) -> list[str]:
        ended = place.call("instances", *options, "--output", "json", role="reader")
        assert ended.code == 0
        return sorted(one["instanceId"] for one in ended.json()["instances"])

    assert shown("--slot", "production") == ["new"]
    assert shown("--task-hub", place.hub, "--all") == ["bad", "new", "old"]
    assert shown("--task-hub", place.hub, "--status", "Failed") == ["bad"]
    table = place.call("instances", "--task-hub", place.hub, "--all", "--top", "2")
    assert lines(table.stdout)[0] == f"2 on record for task hub {place.hub}, there are more"
    assert lines(table.stdout)[1] == "Instance Function Status Active Started Finished Known by"


def test_instances_of_an_empty_slot_are_a_question_that_makes_no_sense(place: Place) -> None:
    place.register()
    ended = place.call("instances")
    assert ended.code == ExitCode.USAGE
    assert f"slot staging of app {place.app} holds no task hub; name one with --task-hub" in ended.stderr


def test_history_is_newest_first_and_as_long_as_asked_for(place: Place) -> None:
    place.register()
    hub = place.stage(new_hub(), 7)
    table = lines(place.call("history", role="reader").stdout)
    assert table[0] == "Revision At What Who Details"
    assert re.search(rf"^2 \S+ PostStaging test {RUN}7 .*{hub}", table[2])
    assert re.search(r"^1 \S+ PutApp test ", table[3])
    short = place.call("history", "--top", "1", "--output", "json").json()
    assert [one["operation"] for one in short["history"]] == ["PostStaging"]
    assert short["continuationToken"]


def test_a_waiver_lets_the_rest_decide(place: Place) -> None:
    place.register()
    place.publish(event(place.hub, "stuck"))
    where = ("--task-hub", place.hub, "--instance-id", "stuck", "--reason", "case 4711")
    ended = place.call("waive", *where, "--hours", "2", "--actor", "anna")
    assert ended.code == 0
    assert lines(ended.stdout)[0].startswith(f"instance stuck of task hub {place.hub} is waived until 20")
    assert re.fullmatch(rf"{place.hub} stuck \S+Z anna case 4711", lines(ended.stdout)[3])
    assert place.call("status", "--slot", "production", "--output", "json").json()["activeCount"] == 0


@pytest.mark.parametrize("options", [("--hours", "0"), ("--hours", "nan"), ("--hours", "2161"), ("--reason", "")])
def test_a_waiver_is_for_a_time_and_a_reason(place: Place, options: tuple[str, str]) -> None:
    place.register()
    given = {"--task-hub": place.hub, "--instance-id": "stuck", "--reason": "why"} | {options[0]: options[1]}
    ended = place.call("waive", *(word for pair in given.items() for word in pair))
    assert ended.code == ExitCode.USAGE
    assert place.ask("GET")["waivers"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["stage", "--task-hub", "HUB"],
        ["cleanup", "--dry-run"],
        ["instances", "--slot", "production"],
        ["history"],
        ["waive", "--task-hub", "OWN", "--instance-id", "order-1", "--reason", "why"],
        ["register", "--task-hub", "OWN"],
        ["doctor"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_with_json_stdout_is_one_document_whatever_the_width(
    place: Place, arguments: list[str], tmp_path: Path
) -> None:
    place.register(policy={"settleSeconds": 0})
    place.publish(event(place.hub, "order-1", function="ÄußerstLang" * 20))
    named = [{"HUB": new_hub(), "OWN": place.hub}.get(word, word) for word in arguments]
    narrow = {"COLUMNS": "20", "SAFE_DEPLOY_OUTPUT": "json", "PYTHONIOENCODING": "ascii"}
    ended = place.call(*named, **narrow, **github(tmp_path))
    assert ended.code == 0
    assert json.loads(ended.stdout)
    assert ended.stderr == ""
    assert ended.stdout.endswith(("}\n", "]\n"))


def test_a_table_in_a_log_is_not_wrapped(place: Place) -> None:
    place.register()
    long = "o" * 250
    place.publish(event(place.hub, long))
    for arguments in (["status", "--slot", "production"], ["instances", "--slot", "production"]):
        assert any(line.startswith(f" {long} ") for line in place.call(*arguments, COLUMNS="40").stdout.splitlines())


def test_a_log_that_cannot_hold_a_letter_gets_another(place: Place) -> None:
    place.register()
    place.publish(event(place.hub, "bestellung-ü"))
    ended = safe_deploy("status", "--slot", "production", given=place.given(PYTHONIOENCODING="ascii"))
    assert ended.code == ExitCode.NOT_READY
    assert "bestellung-\\xfc" in ended.stdout
    assert "bestellung-\\xfc" in ended.stderr


# --- exit codes ---


def blocked(place: Place) -> None:
    place.register()
    place.publish(event(place.stage(new_hub(), 1)))


def deploying(place: Place) -> None:
    place.register()
    place.stage(new_hub(), 1)


def swapping(place: Place) -> None:
    place.register()
    hub = place.stage(new_hub(), 1)
    place.swap(hub, 1, "Pending")


def elsewhere(place: Place) -> None:
    """Another app has the hub of this one's name in production."""
    other = Place(place.url, hub=place.hub)
    other.register()


def unknown(place: Place) -> None:
    """Nobody has told the server anything."""


Setup = Callable[[Place], None]


@pytest.mark.parametrize(
    ("setup", "arguments", "role", "code", "said"),
    [
        (blocked, ["stage", "--task-hub", "HUB", "--run-url", f"{RUN}1"], "deployer", 3, "1 orchestration instance"),
        (blocked, ["status"], "reader", 3, "NotReady: slot staging"),
        (blocked, ["status", "--wait", "--timeout", "0"], "reader", 5, "was not ready within 0 s: "),
        (deploying, ["stage", "--task-hub", "HUB", "--run-url", f"{RUN}2"], "deployer", 6, f"{RUN}1"),
        (Place.register, ["stage", "--task-hub", "OWN"], "deployer", 6, "slot production"),
        (elsewhere, ["stage", "--task-hub", "OWN"], "deployer", 6, ""),
        (Place.register, ["swap", "--task-hub", "HUB", "--outcome", "done"], "deployer", 6, "HUB"),
        (Place.register, ["swap", "--task-hub", "HUB"], "deployer", 2, "--outcome"),
        (Place.register, ["rollback"], "deployer", 2, "--outcome"),
        (deploying, ["abandon", "--task-hub", "HUB"], "deployer", 6, "not yours to abandon"),
        (swapping, ["stage", "--task-hub", "HUB", "--run-url", f"{RUN}1"], "deployer", 6, f"{RUN}1"),
        (Place.register, ["rollback", "--outcome", "done"], "deployer", 6, "nothing to roll back to"),
        (Place.register, ["stage", "--task-hub", "no"], "deployer", 2, "3 to 45 letters and digits"),
        (Place.register, ["status", "--slot", "-"], "reader", 2, "slot"),
        (Place.register, ["status", "--run-url", "https://a b"], "reader", 2, "X-Run-Url"),
        (Place.register, ["status", "--run-url", "https://a\nb"], "reader", 2, "the address of the run"),
        (Place.register, ["status", "--app", ""], "reader", 2, "name the app"),
        (Place.register, ["status", "--app", "../.."], "reader", 1, ""),
        (Place.register, ["status", "--slot", "canary"], "reader", 1, "has no slot canary"),
        (Place.register, ["status", "--timeout", "-1"], "reader", 2, "--timeout"),
        (Place.register, ["status", "--wait", "--timeout", "nan"], "reader", 2, "--timeout"),
        (Place.register, ["status", "--wait", "--timeout", "inf"], "reader", 2, "--timeout"),
        (Place.register, ["swap", "--task-hub", "HUB", "--settle", "nan", "--", "true"], "deployer", 2, "--settle"),
        (Place.register, ["status", "--interval", "0"], "reader", 2, "--interval"),
        (Place.register, ["status", "--interval", "121"], "reader", 2, "--interval"),
        (Place.register, ["history", "--top", "0"], "reader", 2, "--top"),
        (Place.register, ["history", "--top", "1001"], "reader", 2, "--top"),
        (Place.register, ["stage"], "deployer", 2, "--task-hub"),
        (Place.register, ["destroy"], "admin", 2, "destroy"),
        (Place.register, ["stage", "--task-hub", "HUB"], "reader", 4, "needs deployer or admin"),
        (Place.register, ["status"], "publisher", 4, "needs reader or deployer or admin"),
        (Place.register, ["register", "--task-hub", "OWN"], "deployer", 4, "needs admin"),
        (Place.register, ["instances", "--task-hub", "HUB"], "reader", 1, "HUB"),
        (unknown, ["status"], "reader", 1, "Tell it what is in production now: safe-deploy register"),
        (unknown, ["history"], "reader", 1, "Tell it what is in production now: safe-deploy register"),
        (unknown, ["cleanup"], "deployer", 1, "Tell it what is in production now: safe-deploy register"),
    ],
)
def test_every_refusal_has_its_exit_code(
    place: Place, setup: Setup, arguments: list[str], role: str, code: int, said: str
) -> None:
    setup(place)
    hub = new_hub()
    named = [{"HUB": hub, "OWN": place.hub}.get(word, word) for word in arguments]
    ended = place.call(*named, role=role)
    assert ended.code == code, ended
    assert said.replace("HUB", hub) in ended.stderr
    if "--wait" not in arguments and arguments != ["status"]:
        assert ended.stdout == ""


def test_a_task_hub_that_was_used_before_is_a_conflict(place: Place) -> None:
    place.register()
    first = place.stage(new_hub(), 1)
    place.stage(new_hub(), 1)
    ended = place.call("stage", "--task-hub", first, "--run-url", f"{RUN}1")
    assert ended.code == ExitCode.CONFLICT
    assert first in ended.stderr


def test_an_app_that_was_changed_meanwhile_is_a_conflict(place: Place) -> None:
    place.register()
    with Server(place.url, place.app, KEYS["deployer"], Caller(), print, patience=0) as server:
        hub = place.stage(new_hub())
        with pytest.raises(ConflictError) as refused:
            server.post_swap(hub, "staging", etag='"1"')
    assert refused.value.problem["code"] == "PreconditionFailed"
    assert refused.value.exit_code == ExitCode.CONFLICT


def test_an_unknown_key_is_not_allowed(place: Place) -> None:
    for key in ("", "unknown-key-0123456789", " "):
        ended = place.call("status", SAFE_DEPLOY_KEY=key)
        assert ended.code == ExitCode.NOT_ALLOWED
        assert "send a key that this server knows" in ended.stderr


def test_a_server_that_is_not_there_is_a_failure_that_is_tried_again(place: Place) -> None:
    said: list[str] = []
    with between() as gone:
        url = gone.url
    with Server(url, place.app, None, Caller(), said.append, patience=1.5) as server, pytest.raises(Unreachable) as it:
        server.get_app()
    assert it.value.exit_code == ExitCode.FAILURE
    assert said == [f"the server {url} cannot be reached: [Errno 111] Connection refused; trying again"]


def test_options_that_are_required_are_named(place: Place) -> None:
    for option in ("SERVER", "APP"):
        given = {name: value for name, value in place.given().items() if name != f"SAFE_DEPLOY_{option}"}
        ended = safe_deploy("status", given=given)
        assert ended.code == ExitCode.USAGE
        assert f"SAFE_DEPLOY_{option}" in ended.stderr


# --- variables ---


def test_options_can_be_given_by_variables(place: Place) -> None:
    place.register()
    place.publish(event(place.hub))
    many = {"SLOT": "production", "WAIT": "true", "TIMEOUT": "0", "INTERVAL": "2", "VERIFY": "none", "OUTPUT": "json"}
    ended = place.call("status", **{f"SAFE_DEPLOY_{name}": value for name, value in many.items()})
    assert ended.code == ExitCode.TIMED_OUT
    assert ended.json()["slot"] == "production"


def test_stage_takes_its_options_from_variables(place: Place) -> None:
    place.register()
    place.publish(event(place.stage(new_hub(), 1)))
    hub = new_hub()
    many = {
        "TASK_HUB": hub,
        "VERSION": "3",
        "FORCE": "1",
        "TAKE_OVER": "yes",
        "REASON": "run 1 is dead",
        "ACTOR": "anna",
        "RUN_URL": f"{RUN}2",
    }
    ended = place.call("stage", **{f"SAFE_DEPLOY_{name}": value for name, value in many.items()})
    assert ended.code == 0, ended
    newest = place.history()[0]
    assert (newest["by"], newest["runUrl"], newest["reason"]) == ("anna", f"{RUN}2", "run 1 is dead")
    assert newest["details"]["version"] == "3"
    assert newest["details"]["takenOverFrom"]["runUrl"] == f"{RUN}1"


def test_cleanup_takes_its_options_from_variables(place: Place) -> None:
    place.register(taskHubs={"provider": "azureStorage", "connection": "DURABLE_STORAGE"})
    ended = place.call(
        "cleanup", SAFE_DEPLOY_DRY_RUN="true", SAFE_DEPLOY_DELETE_TASK_HUBS="true", SAFE_DEPLOY_OUTPUT="json"
    )
    assert ended.json()["dryRun"] is True
    refused = Place(place.url)
    refused.register()
    assert refused.call("cleanup", SAFE_DEPLOY_DELETE_TASK_HUBS="true").code == ExitCode.USAGE


def test_an_option_goes_before_its_variable(place: Place) -> None:
    place.register()
    ended = place.call("status", "--slot", "production", "--output", "json", SAFE_DEPLOY_SLOT="canary")
    assert ended.json()["slot"] == "production"


NAMES = [
    "SLOT",
    "OUTPUT",
    "ACTOR",
    "RUN_URL",
    "TASK_HUB",
    "VERSION",
    "RESOURCE_GROUP",
    "FUNCTION_APP",
    "HUB_SETTING",
    "TIMEOUT",
    "INTERVAL",
    "VERIFY",
    "REASON",
    "FORCE",
    "TAKE_OVER",
    "DELETE_TASK_HUBS",
    "DRY_RUN",
    "WAIT",
    "DEPLOY_COMMAND",
    "SWAP_COMMAND",
]


@pytest.mark.parametrize("command", ["status", "cleanup", "history", "rollback", "stage", "deploy"])
def test_an_empty_variable_counts_as_not_set(place: Place, command: str) -> None:
    place.register()
    if command == "rollback":
        place.swap(place.stage(new_hub()))
    empty = {f"SAFE_DEPLOY_{name}": "" for name in NAMES}
    ended = place.call(command, *(["--outcome", "done"] if command == "rollback" else []), **empty)
    if command in ("stage", "deploy"):
        assert ended.code == ExitCode.USAGE
        assert "Missing option '--task-hub'" in ended.stderr
    else:
        assert ended.code == 0, ended


@pytest.mark.parametrize(
    ("name", "value"), [("WAIT", "perhaps"), ("VERIFY", "never"), ("OUTPUT", "yaml"), ("TIMEOUT", "long")]
)
def test_a_variable_that_makes_no_sense_is_named(place: Place, name: str, value: str) -> None:
    ended = place.call("status", **{f"SAFE_DEPLOY_{name}": value})
    assert ended.code == ExitCode.USAGE
    assert f"SAFE_DEPLOY_{name}" in ended.stderr


# --- CI systems ---


def test_on_github_a_run_is_known_and_its_outputs_and_summary_are_written(place: Place, tmp_path: Path) -> None:
    place.register()
    hub = new_hub()
    ended = place.call("stage", "--task-hub", hub, "--version", "2", role="deployer", **github(tmp_path))
    assert ended.code == 0
    assert ended.stderr == ""
    assert outputs(tmp_path) == {
        "task-hub": hub,
        "production-task-hub": place.hub,
        "production-version": "1",
        "staging-task-hub": hub,
        "staging-version": "2",
    }
    assert "| Slot | Task hub | Version | Since |" in (tmp_path / "summary").read_text()
    newest = place.history()[0]
    assert (newest["by"], newest["runUrl"], newest["keyName"]) == ("octocat", GITHUB_RUN, "the-deployer")


def test_on_github_a_verdict_is_an_output_and_a_failure_an_annotation(place: Place, tmp_path: Path) -> None:
    place.register()
    place.publish(event(place.hub))
    for options, code in (([], ExitCode.NOT_READY), (["--wait", "--timeout", "0"], ExitCode.TIMED_OUT)):
        ended = place.call("status", "--slot", "production", *options, **github(tmp_path))
        assert ended.code == code
        assert re.search(
            r"^::error title=safe-deploy::.*1 orchestration instance is active", ended.stderr, re.MULTILINE
        )
        assert "::error" not in ended.stdout
        assert outputs(tmp_path) == {
            "ready": "false",
            "status": "NotReady",
            "has-running": "true",
            "active-count": "1",
            "reasons": "InstancesActive",
            "task-hub": place.hub,
            "version": "1",
            "assurance": "events",
        }
        assert "| order\\-1 | ProcessOrder |" in (tmp_path / "summary").read_text()
        (tmp_path / "output").unlink()


def test_on_github_cleanup_says_what_is_gone_and_what_is_kept(place: Place, tmp_path: Path) -> None:
    place.register(policy={"settleSeconds": 0})
    kept, gone = (place.stage(new_hub(), 1) for _ in range(2))
    place.swap(place.stage(new_hub(), 1))
    place.publish(event(kept))
    ended = place.call("cleanup", **github(tmp_path))
    assert ended.code == 0
    assert outputs(tmp_path) == {"removed": gone, "kept": kept}, ended.stdout


def test_on_github_a_call_that_is_wrong_is_annotated_too(place: Place, tmp_path: Path) -> None:
    ended = place.call("status", "--nonsense", **github(tmp_path))
    assert ended.code == ExitCode.USAGE
    assert "::error title=safe-deploy::" in ended.stderr


def test_in_azure_pipelines_a_run_is_known_and_outputs_are_set(place: Place, tmp_path: Path) -> None:
    place.register()
    hub = new_hub()
    ended = place.call("stage", "--task-hub", hub, role="deployer", AGENT_TEMPDIRECTORY=str(tmp_path), **AZURE)
    assert ended.code == 0
    assert f"##vso[task.setvariable variable=stagingTaskHub;isOutput=true]{hub}" in ended.stderr.splitlines()
    assert "##vso[task.setvariable variable=productionVersion;isOutput=true]1" in ended.stderr.splitlines()
    (summary,) = tmp_path.iterdir()
    assert f"##vso[task.uploadsummary]{summary}" in ended.stderr.splitlines()
    assert "##vso" not in ended.stdout
    newest = place.history()[0]
    assert (newest["by"], newest["runUrl"]) == ("anna@shop.example", AZURE_RUN)


def test_in_azure_pipelines_a_failure_is_an_issue(place: Place, tmp_path: Path) -> None:
    ended = place.call("status", AGENT_TEMPDIRECTORY=str(tmp_path), **AZURE)
    assert ended.code == ExitCode.FAILURE
    assert f"##vso[task.logissue type=error]there is no app {place.app}" in ended.stderr


def test_outside_ci_the_audit_log_names_whoever_is_logged_in(place: Place) -> None:
    place.register()
    for number, actor in enumerate(({"LOGNAME": "anna"}, {"LOGNAME": "Zoë"}, {"SAFE_DEPLOY_ACTOR": "Łucja\nx"})):
        assert place.call("register", "--task-hub", place.hub, "--version", f"1.{number}", **actor).code == 0
    assert [one["by"] for one in reversed(place.history())][1:] == ["anna", "Zoe", "?ucja x"]


# --- names that would like to be more ---


@pytest.mark.parametrize("system", ["github", "azure"])
def test_names_are_neither_markup_nor_commands_nor_rows(place: Place, tmp_path: Path, system: str) -> None:
    place.register()
    place.publish(event(place.hub, EVIL, function=EVIL))
    given = github(tmp_path) if system == "github" else AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)}
    for arguments in (["status"], ["instances"], ["status", "--output", "json"], ["status", "--wait", "--timeout=0"]):
        ended = place.call(*arguments, "--slot", "production", **given)
        logged = ended.stdout + re.sub(
            r"^(::error title=safe-deploy::|##vso\[task\.)", "", ended.stderr, flags=re.MULTILINE
        )
        assert "##vso" not in logged
        assert "##[" not in logged
        assert not any(line.lstrip().startswith("::") for line in logged.splitlines())
        assert all(character.isprintable() or character == "\n" for character in logged)
        if "json" in arguments:
            assert ended.json()["active"][0]["instanceId"] == EVIL
        else:
            # All of it is on one line of the log.
            assert any(
                "[red]x[/nope] # #vso[task" in line and ":heart:" in line and line.count("\\u202e")
                for line in logged.splitlines()
            )
    for file in tmp_path.iterdir():
        if file.name == "output":
            continue
        text = file.read_text()
        assert "\x1b" not in text
        for row in (line for line in text.splitlines() if line.startswith("|")):
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) in (7, 8)
            assert not re.search(r"(?<!\\)(?:\\\\)*\[red", row)


# --- the server's address ---


@pytest.mark.parametrize("end", ["/", "/api", "/api/", " ", "\n"])
def test_the_address_may_be_written_with_api_or_a_slash_at_its_end(place: Place, end: str) -> None:
    place.register()
    assert place.call("status", SAFE_DEPLOY_SERVER=f"{place.url}{end}").code == 0


@pytest.mark.parametrize(
    "address",
    [
        "https://user:s3cr3t@shop.example",
        "https://s3cr3t@shop.example",
        "https://shop.example/api?code=s3cr3t",
        "https://shop.example#s3cr3t",
        "shop.example/s3cr3t",
        "ftp://shop.example/s3cr3t",
        "http://[::1/s3cr3t",
        "http://shop.example:99999/s3cr3t",
        "http://shop.example:s3cr3t",
        "https://",
        "s3cr3t",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_unseen(place: Place, address: str) -> None:
    ended = place.call("status", SAFE_DEPLOY_SERVER=address)
    assert ended.code == ExitCode.USAGE
    assert "s3cr3t" not in ended.stdout + ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_key_over_http_to_another_machine_is_warned_of(place: Place, tmp_path: Path) -> None:
    place.register()
    # Reaches this machine, but does not say so.
    url = place.url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104
    ended = place.call("status", SAFE_DEPLOY_SERVER=url)
    assert ended.code == 0
    assert "warning: the key travels unprotected over http" in ended.stderr
    annotated = place.call("status", SAFE_DEPLOY_SERVER=url, **github(tmp_path))
    assert "::warning title=safe-deploy::the key travels" in annotated.stderr
    assert place.call("status", SAFE_DEPLOY_SERVER=place.url.replace("127.0.0.1", "localhost")).stderr == ""


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_the_key(place: Place, status: int) -> None:
    with between() as other, between() as here:
        here.always(Answer(status, headers={"Location": f"{other.url}/api/apps/{place.app}/staging"}))
        ended = place.call("status", SAFE_DEPLOY_SERVER=here.url)
    assert ended.code == ExitCode.FAILURE
    assert "sends callers elsewhere" in ended.stderr
    assert len(here.seen) == 1
    assert other.seen == []


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (Answer(200, b"<html>Welcome</html>"), 1, "answers, but not as a state server does"),
        (Answer(200, b"[]"), 1, "answers, but not as a state server does"),
        (Answer(200, b"{}"), 1, "answers, but not as a state server does"),
        (Answer(200, b"\xff\xfe"), 1, "answers, but not as a state server does"),
        (Answer(200), 1, "answers, but not as a state server does"),
        (Answer(404, b"<html>Nothing here</html>"), 1, "there is no state server at"),
        (Answer(401, b""), 4, "check SAFE_DEPLOY_KEY, and that it is a key of this function"),
        (Answer(403, b"<html>Stopped</html>"), 4, "check SAFE_DEPLOY_KEY, and that it is a key of this function"),
        (Answer(409, b"<html></html>"), 6, "answered with status 409"),
        (Answer(500, b'{"code": "InternalError", "detail": "odd", "traceId": "4711"}'), 1, "odd (traceId 4711)"),
        (Answer(500, b'{"code": 7, "detail": "odd"}'), 1, "answered with status 500"),
    ],
)
def test_what_is_no_state_server_is_told_apart(place: Place, answer: Answer, code: int, said: str) -> None:
    with between() as other:
        other.always(answer)
        ended = place.call("status", SAFE_DEPLOY_SERVER=other.url)
    assert ended.code == code
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""


# --- secrets ---


@pytest.mark.parametrize("key", ["s3cr3t\nkey", "s3cr3t-schlüssel", "s3cr3t\x00"[:-1] + "\x7f", "s3cr3t\tx"])
def test_a_key_that_cannot_be_one_is_refused_unseen(place: Place, tmp_path: Path, key: str) -> None:
    ended = place.call("status", SAFE_DEPLOY_KEY=key, **github(tmp_path))
    assert ended.code == ExitCode.USAGE
    assert "look at how SAFE_DEPLOY_KEY is set" in ended.stderr
    for text in (ended.stdout, ended.stderr, *(file.read_text() for file in tmp_path.iterdir())):
        assert "s3cr3t" not in text
        assert "schl" not in text


def test_a_key_with_space_around_it_is_taken_without(place: Place) -> None:
    place.register()
    assert place.call("status", SAFE_DEPLOY_KEY=f" {KEYS['reader']}\n").code == 0


def test_the_key_is_never_shown(place: Place, tmp_path: Path) -> None:
    place.register()
    place.publish(event(place.hub))
    calls: list[tuple[list[str], dict[str, str]]] = [
        (["--help"], {}),
        (["status", "--help"], {}),
        (["status", "--key", KEYS["admin"], "--output", "yaml"], {}),
        (["status", "--key", KEYS["admin"], "--slot", "production"], {}),
        (["status", f"--key={KEYS['admin']}", "--timeout", "x"], {}),
        (["stage", "--key", KEYS["admin"], "--task-hub", place.hub], {}),
        (["doctor"], {}),
        (["doctor", "--for", "read", "--output", "json"], {}),
        (["swap", "--task-hub", place.hub, "--", "env"], {"SAFE_DEPLOY_RUN_URL": f"{RUN}1"}),
    ]
    for arguments, more in calls:
        # `call` looks for every key in what is printed.
        place.call(*arguments, **github(tmp_path), **more)
        for file in tmp_path.iterdir():
            assert not any(key in file.read_text() for key in KEYS.values())


def test_what_nobody_thought_of_shows_no_key_either(place: Place) -> None:
    with between() as odd:
        # An answer that has what makes it one of a state server, and nothing else.
        odd.always(Answer(200, b'{"app": 7}'))
        for command in (["status"], ["swap", "--task-hub", place.hub, "--", "true"], ["history"]):
            ended = safe_deploy(*command, given=place.given(SAFE_DEPLOY_SERVER=odd.url))
            assert ended.code == ExitCode.FAILURE
            assert ended.stderr.splitlines()[-1].startswith("error: ")
            assert KEYS["admin"] not in ended.stdout + ended.stderr


def test_the_class_refuses_what_the_command_line_refuses() -> None:
    def server(url: str = "https://shop.example", key: str = "", caller: Any = None) -> Server:
        return Server(url, "shop", key, caller or Caller(), print)

    with pytest.raises(UsageError):
        server(key="a\nb")
    with pytest.raises(UsageError):
        server(caller=Caller("x", "https://é"))
    with pytest.raises(UsageError):
        server("//x")
