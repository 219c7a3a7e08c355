"""Warnings of a verdict are printed once a command, and pending starts are shown.

The real server gives the verdict if it can be made to, else a canned response as documented.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.builders import event
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.ci_systems import AZURE, github_environment
from tests.safe_deploy.doctor_runner import PROVIDER_CONFIG, create_provider_hub, run_doctor
from tests.safe_deploy.fault_proxy import CannedResponse, FaultProxy, run_fault_proxy

START = {"instanceId": "order-7", "functionName": "ProcessOrder"}
UNREAD = {"instanceId": "", "functionName": ""}
START_REASON = "StartsPending: 1 message that starts work waits"
UNSEEN = {"code": "MessagesUnseen", "message": "the control queues are not looked at::error::x"}


def build_verdict_response(
    app_client: AppClient, *starts: dict[str, str], warnings: tuple[dict[str, str], ...] = ()
) -> CannedResponse:
    """The real verdict on production, changed as if these starts were in the control queues."""
    verdict_json: dict[str, Any] = app_client.request_json("GET", "/staging?slot=production")
    messages = {
        "visible": len(starts),
        "invisible": 0,
        "explained": 0,
        "starts": starts,
        "checkedAt": verdict_json["checkedAt"],
    }
    probe = {
        "status": "Complete",
        "provider": "azureStorage",
        "beganAt": verdict_json["checkedAt"],
        "messages": messages,
    }
    reasons = [{"code": "StartsPending", "message": "1 message that starts work waits"}] if starts else []
    verdict_json |= {"ready": not starts, "status": "NotReady" if starts else "Ready", "hasRunning": bool(starts)}
    verdict_json |= {
        "reasons": reasons,
        "warnings": list(warnings),
        "evidence": verdict_json["evidence"] | {"probe": probe},
    }
    return CannedResponse(200, json.dumps(verdict_json).encode(), {"Content-Type": "application/json"})


def run_status(
    app_client: AppClient, proxy: FaultProxy, response: CannedResponse, *options: str, **variables: str
) -> Any:
    """Run `safe-deploy status` against a proxy that answers every request with this response."""
    proxy.always_inject(response)
    return app_client.run_cli("status", "--slot", "production", *options, SAFE_DEPLOY_SERVER=proxy.url, **variables)


def test_a_verdict_by_events_alone_causes_one_warning(app_client: AppClient) -> None:
    app_client.register(policy={"settleSeconds": 0})
    app_client.publish(event(app_client.hub, status="Completed"))
    for options in ([], ["--wait", "--timeout", "5"]):
        result = app_client.run_cli("status", "--slot", "production", *options)
        assert result.code == ExitCode.DONE
        [warning] = [line for line in result.stderr.splitlines() if "EventsOnly" in line]
        assert warning.startswith("warning: EventsOnly: the verdict on task hub")


@pytest.mark.parametrize("system", ["github", "azure"])
def test_in_a_ci_system_a_warning_is_an_annotation(app_client: AppClient, tmp_path: Path, system: str) -> None:
    app_client.register(policy={"settleSeconds": 0})
    app_client.publish(event(app_client.hub, status="Completed"))
    variables = github_environment(tmp_path) if system == "github" else AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)}
    result = app_client.run_cli("status", "--slot", "production", **variables)
    assert result.code == ExitCode.DONE
    start = "::warning title=safe-deploy::" if system == "github" else "##vso[task.logissue type=warning]"
    [warning] = [line for line in result.stderr.splitlines() if "EventsOnly" in line]
    assert warning.startswith(f"{start}EventsOnly: the verdict on task hub")
    assert "EventsOnly" not in result.stdout


def test_a_verified_verdict_causes_no_warning(app_client: AppClient, storage: StorageSettings) -> None:
    create_provider_hub(storage, app_client.hub)
    app_client.register(taskHubs=PROVIDER_CONFIG, policy={"settleSeconds": 0})
    result = app_client.run_cli("status", "--slot", "production")
    assert "EventsOnly" not in result.stderr


def test_a_warning_is_in_the_json_and_on_stderr(app_client: AppClient) -> None:
    app_client.register(policy={"settleSeconds": 0})
    app_client.publish(event(app_client.hub, status="Completed"))
    result = app_client.run_cli("status", "--slot", "production", "--output", "json")
    assert [warning["code"] for warning in result.json()["warnings"]] == ["EventsOnly"]
    assert "warning: EventsOnly: " in result.stderr


def test_a_warning_with_a_hostile_message_is_printed_once_and_sanitized(app_client: AppClient) -> None:
    app_client.register()
    with run_fault_proxy() as proxy:
        result = run_status(app_client, proxy, build_verdict_response(app_client, warnings=(UNSEEN, UNSEEN)))
    assert result.code == ExitCode.DONE
    message = "warning: MessagesUnseen: the control queues are not looked at: :error::x. Keep the app running until its"
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1


def test_a_verdict_without_warnings_is_accepted(app_client: AppClient) -> None:
    """Older servers send verdicts without the member `warnings`."""
    app_client.register()
    verdict_json: dict[str, Any] = app_client.request_json("GET", "/staging")
    del verdict_json["warnings"]
    with run_fault_proxy() as proxy:
        assert (
            run_status(app_client, proxy, CannedResponse(200, json.dumps(verdict_json).encode())).code == ExitCode.DONE
        )


def test_a_pending_start_is_shown_with_its_instance_and_function(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    with run_fault_proxy() as proxy:
        result = run_status(
            app_client, proxy, build_verdict_response(app_client, START, UNREAD), **github_environment(tmp_path)
        )
    assert result.code == ExitCode.NOT_READY
    rows = [" ".join(line.split()) for line in result.stdout.splitlines() if line.strip()]
    assert rows[0] == f"NotReady: slot production (task hub {app_client.hub}): {START_REASON}"
    assert rows[1] == "Instance Function Status Active for Last event Known by"
    assert rows[3:-1] == ["order-7 ProcessOrder start in queue queue", "unknown unknown start in queue queue"]
    outputs = (tmp_path / "output").read_text()
    assert "reasons=StartsPending\n" in outputs
    assert "has-running=true\n" in outputs
    assert "order\\-7" in (tmp_path / "summary").read_text()


def test_another_pending_start_is_reported_as_a_change(app_client: AppClient) -> None:
    app_client.register()
    other = START | {"instanceId": "order-8"}
    responses = [
        build_verdict_response(app_client, START),
        build_verdict_response(app_client, START),
        build_verdict_response(app_client, other),
        build_verdict_response(app_client),
    ]
    with run_fault_proxy() as proxy:
        proxy.fault = lambda number: responses[min(number, 3)]
        wait = ("--wait", "--interval", "1", "--timeout", "30")
        result = app_client.run_cli("status", "--slot", "production", *wait, SAFE_DEPLOY_SERVER=proxy.url)
    assert result.code == ExitCode.DONE
    assert result.stderr.count(" NotReady: ") == 2


def test_doctor_warns_about_messages_that_are_not_read(app_client: AppClient, storage: StorageSettings) -> None:
    create_provider_hub(storage, app_client.hub)
    app_client.register(taskHubs=PROVIDER_CONFIG, policy={"settleSeconds": 0, "ignoreMessages": True})
    results = run_doctor(app_client)
    assert results["messages"][0] == "warning"
    assert "messages" not in results.failed_checks()
