"""Every command against a real server with keys: results and exit codes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from safe_deploy.client import PipelineCaller, StateServerClient
from safe_deploy.errors import ConflictError, ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.ci_systems import github
from tests.safe_deploy.processes import KEYS, CliResult, safe_deploy


def lines(text: str) -> list[str]:
    """Rows of a table, by their cells."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


# --- results ---


def test_status_of_an_empty_slot_is_ready(app_client: AppClient) -> None:
    app_client.register()
    ended = app_client.run_cli("status", role="reader")
    assert ended == CliResult(0, "Ready: slot staging (empty), by lifecycle events alone\n", "")


def test_status_shows_who_blocks(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, "order-1"))
    ended = app_client.run_cli("status", "--slot", "production")
    assert ended.code == ExitCode.NOT_READY
    first, *table = lines(ended.stdout)
    assert first.startswith(
        f"NotReady: slot production (task hub {app_client.hub}): 1 orchestration instance is active"
    )
    assert table[0] == "Instance Function Status Active for Last event Known by"
    assert re.fullmatch(r"order-1 ProcessOrder Running \d+ s \d+ s event", table[2])
    warning, error = ended.stderr.splitlines()
    assert warning.startswith(
        f"warning: EventsOnly: the verdict on task hub {app_client.hub} rests on lifecycle events alone"
    )
    assert error.startswith("error: NotReady: slot production")


def test_status_as_json_is_the_servers_verdict(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub))
    ended = app_client.run_cli("status", "--slot", "production", "--output", "json")
    assert ended.code == ExitCode.NOT_READY
    said, asked = ended.json(), app_client.request_json("GET", "/staging?slot=production")
    assert said.keys() == asked.keys()
    assert said["active"] == asked["active"]
    assert (said["ready"], said["taskHub"], said["activeCount"]) == (False, app_client.hub, 1)


def test_register_tells_the_server_what_is_in_production(app_client: AppClient) -> None:
    ended = app_client.run_cli("register", "--task-hub", app_client.hub, "--version", "1.4.0")
    assert ended.code == 0
    assert lines(ended.stdout)[0] == f"slot production of app {app_client.app} holds task hub {app_client.hub}"
    assert re.fullmatch(rf"production {app_client.hub} 1\.4\.0 \S+Z", lines(ended.stdout)[3])
    held = app_client.request_json("GET")["slots"]["production"]
    assert (held["taskHub"], held["version"]) == (app_client.hub, "1.4.0")


def test_register_switches_verification_on(app_client: AppClient) -> None:
    where = ("--provider", "azureStorage", "--connection", "STATE_TASKHUBS_SHOP", "--require-verification")
    slot = ("--slot", "staging", "--task-hub", app_client.hub)
    ended = app_client.run_cli("register", *slot, *where, "--output", "json")
    assert ended.code == 0
    app = ended.json()
    assert app["taskHubs"]["provider"] == "azureStorage"
    assert app["policy"]["requireVerification"] is True
    assert app["slots"]["staging"]["taskHub"] == app_client.hub


def test_register_refuses_half_of_what_verification_needs(app_client: AppClient) -> None:
    for half in (("--provider", "azureStorage"), ("--connection", "STATE_TASKHUBS_SHOP")):
        ended = app_client.run_cli("register", "--task-hub", app_client.hub, *half)
        assert ended.code == ExitCode.USAGE
        assert "--provider and --connection belong together" in ended.stderr


def test_stage_swap_and_rollback_without_commands_keep_the_record(app_client: AppClient) -> None:
    app_client.register()
    hub = new_hub_name()
    staged = app_client.run_cli("stage", "--task-hub", hub, "--version", "2", role="deployer")
    assert staged.code == 0
    assert lines(staged.stdout)[0] == f"task hub {hub} is staged into slot staging of app {app_client.app}"
    done = ("--outcome", "done")
    swapped = app_client.run_cli("swap", "--task-hub", hub, *done, "--output", "json", role="deployer")
    assert swapped.code == 0
    assert {name: held["taskHub"] for name, held in swapped.json()["slots"].items()} == {
        "production": hub,
        "staging": app_client.hub,
    }
    for _ in range(2):
        back = app_client.run_cli("rollback", *done, role="deployer")
        assert back.code == 0
        assert lines(back.stdout)[0] == f"task hub {app_client.hub} is in production of app {app_client.app}"


def test_a_swap_that_somebody_else_carries_out_is_begun_once(app_client: AppClient) -> None:
    """To carry it out twice would bring the old version back."""
    app_client.register()
    hub = app_client.stage(new_hub_name(), 1)
    begin = ("swap", "--task-hub", hub, "--outcome", "pending", "--run-url", f"{RUN}1")
    assert app_client.run_cli(*begin, role="deployer").code == 0
    again = app_client.run_cli(*begin, role="deployer")
    assert again.code == ExitCode.CONFLICT
    assert "has not reported its outcome" in again.stderr
    assert app_client.run_cli("swap", "--task-hub", hub, "--outcome", "done", role="deployer").code == 0
    over = app_client.run_cli(*begin, role="deployer")
    assert over.code == ExitCode.CONFLICT
    assert "do not swap the slots" in over.stderr
    assert app_client.request_json("GET")["slots"]["production"]["taskHub"] == hub


@pytest.mark.parametrize("outcome", ["done", "failed", "pending"])
def test_how_a_rollback_went_says_nothing_of_a_pending_swap_forward(app_client: AppClient, outcome: str) -> None:
    app_client.register()
    hub = app_client.stage(new_hub_name(), 1)
    assert app_client.run_cli("swap", "--task-hub", hub, "--outcome", "pending", role="deployer").code == 0
    ended = app_client.run_cli("rollback", "--outcome", outcome, role="deployer")
    assert ended.code == ExitCode.CONFLICT
    assert app_client.request_json("GET")["pendingSwap"]["taskHub"] == hub


def test_a_deployment_that_is_abandoned_makes_room_for_the_next_run(app_client: AppClient) -> None:
    app_client.register()
    hub = app_client.stage(new_hub_name(), 1)
    ended = app_client.run_cli("abandon", "--task-hub", hub, "--run-url", f"{RUN}1", role="deployer")
    assert ended.code == 0
    assert lines(ended.stdout)[0] == f"the deployment of task hub {hub} into app {app_client.app} is closed"
    assert app_client.request_json("GET")["deployment"] is None
    assert app_client.run_cli("stage", "--task-hub", new_hub_name(), "--run-url", f"{RUN}2", role="deployer").code == 0


def test_cleanup_says_what_it_would_remove_and_removes_it(app_client: AppClient) -> None:
    app_client.register()
    first, second = new_hub_name(), new_hub_name()
    for hub in (first, second, new_hub_name()):
        app_client.swap(app_client.stage(hub))
    dry = app_client.run_cli("cleanup", "--dry-run", role="deployer")
    assert dry.code == 0
    assert [line.split()[0] for line in lines(dry.stdout)[2:]] == [app_client.hub, first]
    assert [one["taskHub"] for one in app_client.request_json("GET")["retired"]] == [app_client.hub, first]
    done = app_client.run_cli("cleanup", "--output", "json", role="deployer")
    assert done.code == 0
    assert [one["taskHub"] for one in done.json()["taskHubs"]] == [app_client.hub, first]
    assert app_client.request_json("GET")["slots"]["staging"]["taskHub"] == second


def test_cleanup_of_nothing_says_so(app_client: AppClient) -> None:
    app_client.register()
    assert app_client.run_cli("cleanup").stdout == "no task hub is retired\n"


def test_task_hubs_are_not_deleted_by_a_server_that_does_not_know_where_they_live(app_client: AppClient) -> None:
    app_client.register()
    ended = app_client.run_cli("cleanup", "--delete-task-hubs")
    assert ended.code == ExitCode.USAGE
    assert "set taskHubs" in ended.stderr


def test_instances_are_the_active_ones_of_the_slot_unless_asked_otherwise(app_client: AppClient) -> None:
    app_client.register()
    ended_one = [
        event(app_client.hub, "old"),
        event(app_client.hub, "old", "Completed"),
        event(app_client.hub, "bad", "Failed"),
    ]
    app_client.publish(event(app_client.hub, "new"), *ended_one)

    def shown(*options: str) -> list[str]:
        ended = app_client.run_cli("instances", *options, "--output", "json", role="reader")
        assert ended.code == 0
        return sorted(one["instanceId"] for one in ended.json()["instances"])

    assert shown("--slot", "production") == ["new"]
    assert shown("--task-hub", app_client.hub, "--all") == ["bad", "new", "old"]
    assert shown("--task-hub", app_client.hub, "--status", "Failed") == ["bad"]
    table = app_client.run_cli("instances", "--task-hub", app_client.hub, "--all", "--top", "2")
    assert lines(table.stdout)[0] == f"2 on record for task hub {app_client.hub}, there are more"
    assert lines(table.stdout)[1] == "Instance Function Status Active Started Finished Known by"


def test_instances_of_an_empty_slot_are_a_question_that_makes_no_sense(app_client: AppClient) -> None:
    app_client.register()
    ended = app_client.run_cli("instances")
    assert ended.code == ExitCode.USAGE
    assert f"slot staging of app {app_client.app} holds no task hub. Name a task hub with --task-hub" in ended.stderr


def test_history_is_newest_first_and_as_long_as_asked_for(app_client: AppClient) -> None:
    app_client.register()
    hub = app_client.stage(new_hub_name(), 7)
    table = lines(app_client.run_cli("history", role="reader").stdout)
    assert table[0] == "Revision At Operation By Details"
    assert re.search(rf"^2 \S+ PostStaging test {RUN}7 .*{hub}", table[2])
    assert re.search(r"^1 \S+ PutApp test ", table[3])
    short = app_client.run_cli("history", "--top", "1", "--output", "json").json()
    assert [one["operation"] for one in short["history"]] == ["PostStaging"]
    assert short["continuationToken"]


@pytest.mark.parametrize("instance_id", ["stuck", ".", ".."])
def test_a_waiver_lets_the_rest_decide(app_client: AppClient, instance_id: str) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, instance_id))
    shown = app_client.run_cli("instances", "--task-hub", app_client.hub, "--output", "json").json()["instances"]
    assert [one["instanceId"] for one in shown] == [instance_id]
    where = ("--task-hub", app_client.hub, "--instance-id", instance_id, "--reason", "case 4711")
    ended = app_client.run_cli("waive", *where, "--hours", "2", "--actor", "anna")
    assert ended.code == 0
    first, *_ = lines(ended.stdout)
    assert re.fullmatch(rf"waived until 20\S+Z in task hub {app_client.hub}: instance {re.escape(instance_id)}", first)
    row = rf"{app_client.hub} instance {re.escape(instance_id)} \S+Z anna case 4711"
    assert re.fullmatch(row, lines(ended.stdout)[3])
    assert app_client.run_cli("status", "--slot", "production", "--output", "json").json()["activeCount"] == 0


def test_messages_that_nothing_explains_are_waived_by_their_number(app_client: AppClient) -> None:
    app_client.register()
    where = ("--task-hub", app_client.hub, "--reason", "purged timers", "--actor", "anna")
    ended = app_client.run_cli("waive", *where, "--unexplained-messages", "3")
    assert ended.code == 0
    assert lines(ended.stdout)[0].endswith(f"in task hub {app_client.hub}: 3 unexplained messages")
    assert re.fullmatch(rf"{app_client.hub} 3 unexplained messages \S+Z anna purged timers", lines(ended.stdout)[3])
    assert [waiver["unexplainedMessages"] for waiver in app_client.request_json("GET")["waivers"]] == [3]
    # Beside it, the waiver of an instance is listed too.
    ended = app_client.run_cli("waive", *where, "--instance-id", "stuck")
    assert len(lines(ended.stdout)) == 5


@pytest.mark.parametrize("what", [(), ("--instance-id", "stuck", "--unexplained-messages", "3")])
def test_a_waiver_is_for_one_thing(app_client: AppClient, what: tuple[str, ...]) -> None:
    app_client.register()
    ended = app_client.run_cli("waive", "--task-hub", app_client.hub, "--reason", "why", *what)
    assert ended.code == ExitCode.USAGE
    assert "--unexplained-messages" in ended.stderr
    assert app_client.request_json("GET")["waivers"] == []


@pytest.mark.parametrize("options", [("--hours", "0"), ("--hours", "nan"), ("--hours", "2161"), ("--reason", "")])
def test_a_waiver_is_for_a_time_and_a_reason(app_client: AppClient, options: tuple[str, str]) -> None:
    app_client.register()
    given = {"--task-hub": app_client.hub, "--instance-id": "stuck", "--reason": "why"} | {options[0]: options[1]}
    ended = app_client.run_cli("waive", *(word for pair in given.items() for word in pair))
    assert ended.code == ExitCode.USAGE
    assert app_client.request_json("GET")["waivers"] == []


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
    app_client: AppClient, arguments: list[str], tmp_path: Path
) -> None:
    app_client.register(policy={"settleSeconds": 0})
    app_client.publish(event(app_client.hub, "order-1", function="ÄußerstLang" * 20))
    named = [{"HUB": new_hub_name(), "OWN": app_client.hub}.get(word, word) for word in arguments]
    narrow = {"COLUMNS": "20", "SAFE_DEPLOY_OUTPUT": "json", "PYTHONIOENCODING": "ascii"}
    ended = app_client.run_cli(*named, **narrow, **github(tmp_path))
    assert ended.code == (ExitCode.FAILURE if "doctor" in arguments else 0)
    assert json.loads(ended.stdout)
    # What the doctor finds wrong is an error, too.
    assert [line.startswith("::error ") for line in ended.stderr.splitlines()] == [True] * ("doctor" in arguments)
    assert ended.stdout.endswith(("}\n", "]\n"))


def test_a_table_in_a_log_is_not_wrapped(app_client: AppClient) -> None:
    app_client.register()
    long = "o" * 250
    app_client.publish(event(app_client.hub, long))
    for arguments in (["status", "--slot", "production"], ["instances", "--slot", "production"]):
        assert any(
            line.startswith(f" {long} ") for line in app_client.run_cli(*arguments, COLUMNS="40").stdout.splitlines()
        )


def test_a_log_that_cannot_hold_a_letter_gets_another(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, "bestellung-ü"))
    ended = safe_deploy("status", "--slot", "production", given=app_client.given(PYTHONIOENCODING="ascii"))
    assert ended.code == ExitCode.NOT_READY
    assert "bestellung-\\xfc" in ended.stdout
    assert "bestellung-\\xfc" in ended.stderr


# --- exit codes ---


def blocked(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.stage(new_hub_name(), 1)))


def deploying(app_client: AppClient) -> None:
    app_client.register()
    app_client.stage(new_hub_name(), 1)


def swapping(app_client: AppClient) -> None:
    app_client.register()
    hub = app_client.stage(new_hub_name(), 1)
    app_client.swap(hub, 1, "Pending")


def elsewhere(app_client: AppClient) -> None:
    """Another app has the hub of this one's name in production."""
    other = AppClient(app_client.url, hub=app_client.hub)
    other.register()


def unknown(app_client: AppClient) -> None:
    """Nobody has told the server anything."""


Setup = Callable[[AppClient], None]


@pytest.mark.parametrize(
    ("setup", "arguments", "role", "code", "said"),
    [
        (blocked, ["stage", "--task-hub", "HUB", "--run-url", f"{RUN}1"], "deployer", 3, "1 orchestration instance"),
        (blocked, ["status"], "reader", 3, "NotReady: slot staging"),
        (blocked, ["status", "--wait", "--timeout", "0"], "reader", 5, "was not ready within 0 s: "),
        (deploying, ["stage", "--task-hub", "HUB", "--run-url", f"{RUN}2"], "deployer", 6, f"{RUN}1"),
        (AppClient.register, ["stage", "--task-hub", "OWN"], "deployer", 6, "slot production"),
        (elsewhere, ["stage", "--task-hub", "OWN"], "deployer", 6, ""),
        (AppClient.register, ["swap", "--task-hub", "HUB", "--outcome", "done"], "deployer", 6, "HUB"),
        (AppClient.register, ["swap", "--task-hub", "HUB"], "deployer", 2, "--outcome"),
        (AppClient.register, ["rollback"], "deployer", 2, "--outcome"),
        (deploying, ["abandon", "--task-hub", "HUB"], "deployer", 6, "does not hold the open deployment"),
        (swapping, ["stage", "--task-hub", "HUB", "--run-url", f"{RUN}1"], "deployer", 6, f"{RUN}1"),
        (AppClient.register, ["rollback", "--outcome", "done"], "deployer", 6, "nothing to roll back to"),
        (AppClient.register, ["stage", "--task-hub", "no"], "deployer", 2, "3 to 45 letters and digits"),
        (AppClient.register, ["status", "--slot", "-"], "reader", 2, "slot"),
        (AppClient.register, ["status", "--run-url", "https://a b"], "reader", 2, "X-Run-Url"),
        (AppClient.register, ["status", "--run-url", "https://a\nb"], "reader", 2, "--run-url has characters"),
        (AppClient.register, ["status", "--app", ""], "reader", 2, "--app (or SAFE_DEPLOY_APP) is empty"),
        (AppClient.register, ["status", "--app", "../.."], "reader", 1, ""),
        (AppClient.register, ["status", "--slot", "canary"], "reader", 1, "has no slot canary"),
        (AppClient.register, ["status", "--timeout", "-1"], "reader", 2, "--timeout"),
        (AppClient.register, ["status", "--wait", "--timeout", "nan"], "reader", 2, "--timeout"),
        (AppClient.register, ["status", "--wait", "--timeout", "inf"], "reader", 2, "--timeout"),
        (
            AppClient.register,
            ["swap", "--task-hub", "HUB", "--stabilization-window", "nan", "--", "true"],
            "deployer",
            2,
            "--stabilization-window",
        ),
        (AppClient.register, ["status", "--interval", "0"], "reader", 2, "--interval"),
        (AppClient.register, ["status", "--interval", "121"], "reader", 2, "--interval"),
        (AppClient.register, ["history", "--top", "0"], "reader", 2, "--top"),
        (AppClient.register, ["history", "--top", "1001"], "reader", 2, "--top"),
        (AppClient.register, ["stage"], "deployer", 2, "--task-hub"),
        (AppClient.register, ["destroy"], "admin", 2, "destroy"),
        (AppClient.register, ["stage", "--task-hub", "HUB"], "reader", 4, "the role deployer or admin"),
        (AppClient.register, ["status"], "publisher", 4, "the role reader or deployer or admin"),
        (AppClient.register, ["register", "--task-hub", "OWN"], "deployer", 4, "the role admin"),
        (AppClient.register, ["instances", "--task-hub", "HUB"], "reader", 1, "HUB"),
        (unknown, ["status"], "reader", 1, "Tell the server what is in production: safe-deploy register"),
        (unknown, ["history"], "reader", 1, "Tell the server what is in production: safe-deploy register"),
        (unknown, ["cleanup"], "deployer", 1, "Tell the server what is in production: safe-deploy register"),
    ],
)
def test_every_refusal_has_its_exit_code(
    app_client: AppClient, setup: Setup, arguments: list[str], role: str, code: int, said: str
) -> None:
    setup(app_client)
    hub = new_hub_name()
    named = [{"HUB": hub, "OWN": app_client.hub}.get(word, word) for word in arguments]
    ended = app_client.run_cli(*named, role=role)
    assert ended.code == code, ended
    assert said.replace("HUB", hub) in ended.stderr
    if "--wait" not in arguments and arguments != ["status"]:
        assert ended.stdout == ""


def test_a_task_hub_that_was_used_before_is_a_conflict(app_client: AppClient) -> None:
    app_client.register()
    first = app_client.stage(new_hub_name(), 1)
    app_client.stage(new_hub_name(), 1)
    ended = app_client.run_cli("stage", "--task-hub", first, "--run-url", f"{RUN}1")
    assert ended.code == ExitCode.CONFLICT
    assert first in ended.stderr


def test_an_app_that_was_changed_meanwhile_is_a_conflict(app_client: AppClient) -> None:
    app_client.register()
    with StateServerClient(
        app_client.url,
        app_client.app,
        key=KEYS["deployer"],
        caller=PipelineCaller(),
        report=print,
        retry_seconds=0,
    ) as server:
        hub = app_client.stage(new_hub_name())
        with pytest.raises(ConflictError) as refused:
            server.post_swap(hub, slot="staging", outcome=None, etag='"1"')
    assert refused.value.problem["code"] == "PreconditionFailed"
    assert refused.value.exit_code == ExitCode.CONFLICT


def test_an_unknown_key_is_not_allowed(app_client: AppClient) -> None:
    for key in ("", "unknown-key-0123456789", " "):
        ended = app_client.run_cli("status", SAFE_DEPLOY_KEY=key)
        assert ended.code == ExitCode.NOT_ALLOWED
        assert "send a key that this server knows" in ended.stderr
