"""What a verdict does not cover is printed once a command, and a start that is still a message is shown. By the real
server where it can be made to say it, else by its answers as documented."""

import json
from pathlib import Path
from typing import Any

import pytest

from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.builders import event
from tests.safe_deploy.between import Answer, Between, between
from tests.safe_deploy.ci_systems import AZURE, github
from tests.safe_deploy.place import Place
from tests.safe_deploy.test_doctor import SOURCE, examined, started

START = {"instanceId": "order-7", "functionName": "ProcessOrder"}
UNREAD = {"instanceId": "", "functionName": ""}
UNSEEN = {"code": "MessagesUnseen", "message": "the control queues are not looked at::error::x"}


def verdict(place: Place, *starts: dict[str, str], warnings: tuple[dict[str, str], ...] = ()) -> Answer:
    """The real verdict on production, as if these starts were in the control queues."""
    said: dict[str, Any] = place.ask("GET", "/staging?slot=production")
    messages = {
        "visible": len(starts),
        "invisible": 0,
        "explained": 0,
        "starts": starts,
        "checkedAt": said["checkedAt"],
    }
    probe = {"status": "Complete", "provider": "azureStorage", "startedAt": said["checkedAt"], "messages": messages}
    reasons = [{"code": "StartsPending", "message": "1 message that starts work waits"}] if starts else []
    said |= {"ready": not starts, "status": "NotReady" if starts else "Ready", "hasRunning": bool(starts)}
    said |= {"reasons": reasons, "warnings": list(warnings), "evidence": said["evidence"] | {"probe": probe}}
    return Answer(200, json.dumps(said).encode(), {"Content-Type": "application/json"})


def asked(place: Place, proxy: Between, answer: Answer, *options: str, **given: str) -> Any:
    proxy.always(answer)
    return place.call("status", "--slot", "production", *options, SAFE_DEPLOY_SERVER=proxy.url, **given)


def test_events_alone_are_warned_about_once(place: Place) -> None:
    place.register(policy={"settleSeconds": 0})
    place.publish(event(place.hub, status="Completed"))
    for options in ([], ["--wait", "--timeout", "5"]):
        ended = place.call("status", "--slot", "production", *options)
        assert ended.code == 0
        [warning] = [line for line in ended.stderr.splitlines() if "EventsOnly" in line]
        assert warning.startswith("warning: EventsOnly: the verdict on task hub")


@pytest.mark.parametrize("system", ["github", "azure"])
def test_in_a_ci_system_a_warning_is_an_annotation(place: Place, tmp_path: Path, system: str) -> None:
    place.register(policy={"settleSeconds": 0})
    place.publish(event(place.hub, status="Completed"))
    given = github(tmp_path) if system == "github" else AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)}
    ended = place.call("status", "--slot", "production", **given)
    assert ended.code == 0
    start = "::warning title=safe-deploy::" if system == "github" else "##vso[task.logissue type=warning]"
    [warning] = [line for line in ended.stderr.splitlines() if "EventsOnly" in line]
    assert warning.startswith(f"{start}EventsOnly: the verdict on task hub")
    assert "EventsOnly" not in ended.stdout


def test_where_the_server_reads_the_task_hub_nothing_is_warned_about(place: Place, storage: StorageSettings) -> None:
    started(storage, place.hub)
    place.register(taskHubs=SOURCE, policy={"settleSeconds": 0})
    ended = place.call("status", "--slot", "production")
    assert "EventsOnly" not in ended.stderr


def test_a_warning_is_part_of_the_json_and_is_printed_as_well(place: Place) -> None:
    place.register(policy={"settleSeconds": 0})
    place.publish(event(place.hub, status="Completed"))
    ended = place.call("status", "--slot", "production", "--output", "json")
    assert [one["code"] for one in ended.json()["warnings"]] == ["EventsOnly"]
    assert "warning: EventsOnly: " in ended.stderr


def test_every_warning_is_printed_as_text(place: Place) -> None:
    place.register()
    with between() as proxy:
        ended = asked(place, proxy, verdict(place, warnings=(UNSEEN, UNSEEN)))
    assert ended.code == 0
    assert ended.stderr == "warning: MessagesUnseen: the control queues are not looked at: :error::x\n"


def test_a_server_without_warnings_is_understood(place: Place) -> None:
    """One that is older than this command line."""
    place.register()
    said: dict[str, Any] = place.ask("GET", "/staging")
    del said["warnings"]
    with between() as proxy:
        assert asked(place, proxy, Answer(200, json.dumps(said).encode())).code == 0


def test_a_start_that_is_still_a_message_is_shown_with_its_instance_and_function(place: Place, tmp_path: Path) -> None:
    place.register()
    with between() as proxy:
        ended = asked(place, proxy, verdict(place, START, UNREAD), **github(tmp_path))
    assert ended.code == ExitCode.NOT_READY
    rows = [" ".join(line.split()) for line in ended.stdout.splitlines() if line.strip()]
    assert rows[0] == f"NotReady: slot production (task hub {place.hub}): 1 message that starts work waits"
    assert rows[1] == "Instance Function Status Active for Last event Known by"
    assert rows[3:] == ["order-7 ProcessOrder start in queue queue", "unknown unknown start in queue queue"]
    outputs = (tmp_path / "output").read_text()
    assert "reasons=StartsPending\n" in outputs
    assert "has-running=true\n" in outputs
    assert "order\\-7" in (tmp_path / "summary").read_text()


def test_another_start_is_something_new_for_whoever_waits(place: Place) -> None:
    place.register()
    other = START | {"instanceId": "order-8"}
    answers = [verdict(place, START), verdict(place, START), verdict(place, other), verdict(place)]
    with between() as proxy:
        proxy.fault = lambda number: answers[min(number, 3)]
        wait = ("--wait", "--interval", "1", "--timeout", "30")
        ended = place.call("status", "--slot", "production", *wait, SAFE_DEPLOY_SERVER=proxy.url)
    assert ended.code == 0
    assert ended.stderr.count(" NotReady: ") == 2


def test_the_doctor_warns_of_messages_that_are_not_looked_at(place: Place, storage: StorageSettings) -> None:
    started(storage, place.hub)
    place.register(taskHubs=SOURCE, policy={"settleSeconds": 0, "ignoreMessages": True})
    found = examined(place)
    assert found["messages"][0] == "warning"
    assert "messages" not in found.wrong()
