"""What a verdict does not cover is printed once a command, and a start that is still a message is shown. By the real
server where it can be made to say it, else by its answers as documented."""

import json
from pathlib import Path
from typing import Any

import pytest

from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.builders import event
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.ci_systems import AZURE, github
from tests.safe_deploy.fault_proxy import CannedResponse, FaultProxy, run_fault_proxy
from tests.safe_deploy.test_doctor import PROVIDER_CONFIG, create_provider_hub, run_doctor

START = {"instanceId": "order-7", "functionName": "ProcessOrder"}
UNREAD = {"instanceId": "", "functionName": ""}
UNSEEN = {"code": "MessagesUnseen", "message": "the control queues are not looked at::error::x"}


def verdict(
    app_client: AppClient, *starts: dict[str, str], warnings: tuple[dict[str, str], ...] = ()
) -> CannedResponse:
    """The real verdict on production, as if these starts were in the control queues."""
    said: dict[str, Any] = app_client.request_json("GET", "/staging?slot=production")
    messages = {
        "visible": len(starts),
        "invisible": 0,
        "explained": 0,
        "starts": starts,
        "checkedAt": said["checkedAt"],
    }
    probe = {"status": "Complete", "provider": "azureStorage", "beganAt": said["checkedAt"], "messages": messages}
    reasons = [{"code": "StartsPending", "message": "1 message that starts work waits"}] if starts else []
    said |= {"ready": not starts, "status": "NotReady" if starts else "Ready", "hasRunning": bool(starts)}
    said |= {"reasons": reasons, "warnings": list(warnings), "evidence": said["evidence"] | {"probe": probe}}
    return CannedResponse(200, json.dumps(said).encode(), {"Content-Type": "application/json"})


def asked(app_client: AppClient, proxy: FaultProxy, answer: CannedResponse, *options: str, **given: str) -> Any:
    proxy.always_inject(answer)
    return app_client.run_cli("status", "--slot", "production", *options, SAFE_DEPLOY_SERVER=proxy.url, **given)


def test_events_alone_are_warned_about_once(app_client: AppClient) -> None:
    app_client.register(policy={"settleSeconds": 0})
    app_client.publish(event(app_client.hub, status="Completed"))
    for options in ([], ["--wait", "--timeout", "5"]):
        ended = app_client.run_cli("status", "--slot", "production", *options)
        assert ended.code == 0
        [warning] = [line for line in ended.stderr.splitlines() if "EventsOnly" in line]
        assert warning.startswith("warning: EventsOnly: the verdict on task hub")


@pytest.mark.parametrize("system", ["github", "azure"])
def test_in_a_ci_system_a_warning_is_an_annotation(app_client: AppClient, tmp_path: Path, system: str) -> None:
    app_client.register(policy={"settleSeconds": 0})
    app_client.publish(event(app_client.hub, status="Completed"))
    given = github(tmp_path) if system == "github" else AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)}
    ended = app_client.run_cli("status", "--slot", "production", **given)
    assert ended.code == 0
    start = "::warning title=safe-deploy::" if system == "github" else "##vso[task.logissue type=warning]"
    [warning] = [line for line in ended.stderr.splitlines() if "EventsOnly" in line]
    assert warning.startswith(f"{start}EventsOnly: the verdict on task hub")
    assert "EventsOnly" not in ended.stdout


def test_where_the_server_reads_the_task_hub_nothing_is_warned_about(
    app_client: AppClient, storage: StorageSettings
) -> None:
    create_provider_hub(storage, app_client.hub)
    app_client.register(taskHubs=PROVIDER_CONFIG, policy={"settleSeconds": 0})
    ended = app_client.run_cli("status", "--slot", "production")
    assert "EventsOnly" not in ended.stderr


def test_a_warning_is_part_of_the_json_and_is_printed_as_well(app_client: AppClient) -> None:
    app_client.register(policy={"settleSeconds": 0})
    app_client.publish(event(app_client.hub, status="Completed"))
    ended = app_client.run_cli("status", "--slot", "production", "--output", "json")
    assert [one["code"] for one in ended.json()["warnings"]] == ["EventsOnly"]
    assert "warning: EventsOnly: " in ended.stderr


def test_every_warning_is_printed_as_text(app_client: AppClient) -> None:
    app_client.register()
    with run_fault_proxy() as proxy:
        ended = asked(app_client, proxy, verdict(app_client, warnings=(UNSEEN, UNSEEN)))
    assert ended.code == 0
    assert ended.stderr == "warning: MessagesUnseen: the control queues are not looked at: :error::x\n"


def test_a_server_without_warnings_is_understood(app_client: AppClient) -> None:
    """One that is older than this command line."""
    app_client.register()
    said: dict[str, Any] = app_client.request_json("GET", "/staging")
    del said["warnings"]
    with run_fault_proxy() as proxy:
        assert asked(app_client, proxy, CannedResponse(200, json.dumps(said).encode())).code == 0


def test_a_start_that_is_still_a_message_is_shown_with_its_instance_and_function(
    app_client: AppClient, tmp_path: Path
) -> None:
    app_client.register()
    with run_fault_proxy() as proxy:
        ended = asked(app_client, proxy, verdict(app_client, START, UNREAD), **github(tmp_path))
    assert ended.code == ExitCode.NOT_READY
    rows = [" ".join(line.split()) for line in ended.stdout.splitlines() if line.strip()]
    assert rows[0] == f"NotReady: slot production (task hub {app_client.hub}): 1 message that starts work waits"
    assert rows[1] == "Instance Function Status Active for Last event Known by"
    assert rows[3:] == ["order-7 ProcessOrder start in queue queue", "unknown unknown start in queue queue"]
    outputs = (tmp_path / "output").read_text()
    assert "reasons=StartsPending\n" in outputs
    assert "has-running=true\n" in outputs
    assert "order\\-7" in (tmp_path / "summary").read_text()


def test_another_start_is_something_new_for_whoever_waits(app_client: AppClient) -> None:
    app_client.register()
    other = START | {"instanceId": "order-8"}
    answers = [verdict(app_client, START), verdict(app_client, START), verdict(app_client, other), verdict(app_client)]
    with run_fault_proxy() as proxy:
        proxy.fault = lambda number: answers[min(number, 3)]
        wait = ("--wait", "--interval", "1", "--timeout", "30")
        ended = app_client.run_cli("status", "--slot", "production", *wait, SAFE_DEPLOY_SERVER=proxy.url)
    assert ended.code == 0
    assert ended.stderr.count(" NotReady: ") == 2


def test_the_doctor_warns_of_messages_that_are_not_looked_at(app_client: AppClient, storage: StorageSettings) -> None:
    create_provider_hub(storage, app_client.hub)
    app_client.register(taskHubs=PROVIDER_CONFIG, policy={"settleSeconds": 0, "ignoreMessages": True})
    found = run_doctor(app_client)
    assert found["messages"][0] == "warning"
    assert "messages" not in found.failed_checks()
