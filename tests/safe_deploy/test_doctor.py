"""`safe-deploy doctor` against a real server with keys, and the stand-in for `az`: every finding, and its exit code."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from safe_deploy.client import Caller, Server
from safe_deploy.doctor import PATIENCE_SECONDS, Purpose, Standing, examine
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.builders import at, event
from tests.conftest import new_hub
from tests.keys import key_entry
from tests.pipelines.standin import Cloud, install
from tests.safe_deploy.between import Answer, Between, Fault, between
from tests.safe_deploy.inprocess import Result, run
from tests.safe_deploy.place import RUN, Place
from tests.safe_deploy.processes import KEYS, roles, state_server
from tests.safe_deploy.shop import GROUP
from tests.server.processes import Served
from tests.taskhubs.provider import ProviderHub

SOURCE = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}
VERIFIED: dict[str, Any] = {"taskHubs": SOURCE, "policy": {"settleSeconds": 0, "requireVerification": True}}


class Findings(dict[str, tuple[str, str]]):
    """What the doctor said, by question: how it stands, and the words."""

    def __init__(self, ended: Result) -> None:
        listed = json.loads(ended.out)
        super().__init__({one["question"]: (one["standing"], one["finding"]) for one in listed})
        assert len(self) == len(listed), "every question is answered once"
        self.code = ended.code
        self.err = ended.err

    def wrong(self) -> list[str]:
        return [question for question, (standing, _) in self.items() if standing == "wrong"]


def examined(place: Place, *options: str, role: str = "deployer", **given: str) -> Findings:
    """Let the doctor look. It shows no key, and what is wrong is on stderr, too."""
    ended = run(["doctor", "--output", "json", *options], place.given(role, **given))
    assert "Traceback" not in ended.err
    assert not any(key in ended.out + ended.err for key in KEYS.values())
    found = Findings(ended)
    assert (ended.code == 0) is (not found.wrong())
    for question in found.wrong():
        assert f"{question}: {found[question][1]}" in ended.err
    return found


@pytest.fixture
def proxy(served: Served) -> Iterator[Between]:
    with between(served.url) as one:
        yield one


def started(storage: StorageSettings, hub: str, **instances: str) -> None:
    """The task hub's own table, as the app makes it when it starts, with these instances."""

    async def create() -> None:
        async with ProviderHub(storage, hub) as provider:
            await provider.create()
            for instance, status in instances.items():
                await provider.put(instance, status)

    asyncio.run(create())


def verified(place: Place, storage: StorageSettings) -> Place:
    """An app whose task hub the server reads, with one active instance in it."""
    started(storage, place.hub, **{"order-1": "Running"})
    place.register(taskHubs=SOURCE)
    place.publish(event(place.hub))
    return place


# --- all is well ---


def test_where_all_is_well_the_doctor_says_so(place: Place, storage: StorageSettings, cloud: Cloud) -> None:
    """Every question is answered, none with a warning."""
    started(storage, place.hub)
    place.register(**VERIFIED)
    place.publish(event(place.hub, status="Completed", time=at(-7300)))
    carry(cloud, place, production=place.hub, staging=None)
    found = examined(place, "--resource-group", GROUP)
    assert found.code == 0
    assert found.err == ""
    assert found == {
        "server": ("ok", f"{place.url} and its storage answer"),
        "key": ("ok", "it may do all that it takes to deploy"),
        "app": ("ok", f"production {place.hub}, staging empty"),
        "Azure: production": ("ok", f"carries {place.hub}, as the server believes"),
        "Azure: staging": ("ok", "carries no task hub, as the server believes"),
        "Azure: setting": ("ok", "the setting with the task hub name travels with the code"),
        "events": ("ok", f"the last one of task hub {place.hub} is 2 h old"),
        "verification": ("ok", "azureStorage, and the policy requires it"),
    }


def test_for_people_findings_are_a_table(place: Place) -> None:
    """What is wrong is repeated as the error."""
    place.register()
    ended = run(["doctor"], place.given())
    assert ended.code == ExitCode.FAILURE
    rows = [" ".join(line.split()) for line in ended.out.splitlines() if line.strip()]
    assert rows[0] == "Question Finding"
    assert f"ok app production {place.hub}, staging empty" in rows
    assert any(row.startswith(f"wrong events none ever came of task hub {place.hub}: look at") for row in rows)
    assert ended.err.startswith("error: events: none ever came")


def test_the_doctor_changes_nothing(place: Place) -> None:
    """Whatever it tries; not even the audit log knows that it was there."""
    place.register()
    place.stage(new_hub(), 1)
    before = place.ask("GET"), place.history()
    for role in KEYS:
        examined(place, "--for", Purpose.OPERATE, role=role)
    assert (place.ask("GET"), place.history()) == before


# --- the server and the key ---


def test_a_server_that_is_not_there_ends_the_examination(place: Place) -> None:
    """Nothing else can be known. It is tried again for a while, but not for as long as in a deployment."""
    assert PATIENCE_SECONDS <= 15
    with between() as gone:
        url = gone.url
    said: list[str] = []
    with Server(url, place.app, KEYS["deployer"], Caller(), said.append, patience=1.5) as server:
        (finding,) = examine(server, "staging", None, Purpose.DEPLOY, datetime.now(UTC))
    assert (finding.question, finding.standing, finding.exit_code) == ("server", Standing.WRONG, ExitCode.FAILURE)
    assert finding.said == f"the server {url} cannot be reached: [Errno 111] Connection refused"
    assert said == [f"{finding.said}; trying again"]


def test_another_kind_of_server_is_told_apart(place: Place, proxy: Between) -> None:
    """One that answers everything, but not as a state server."""
    proxy.always(Answer(200, b"<html>Welcome</html>"))
    found = examined(place, SAFE_DEPLOY_SERVER=proxy.url)
    assert found.code == ExitCode.FAILURE
    assert "not as a state server does" in found["server"][1]


READING = ["GetApp", "GetStagingStatus", "GetHistory", "GetTaskHub"]
DEPLOYING = ["PostStaging", "DeleteStaging", "PostSwap", "Cleanup"]


@pytest.mark.parametrize(
    ("role", "purpose", "refused"),
    [
        ("reader", "read", []),
        ("reader", "deploy", DEPLOYING),
        ("reader", "operate", [*DEPLOYING, "PutApp", "PostWaiver"]),
        ("deployer", "read", []),
        ("deployer", "deploy", []),
        ("deployer", "operate", ["PutApp"]),
        ("publisher", "read", READING),
        ("publisher", "operate", [*READING, *DEPLOYING, "PutApp", "PostWaiver", "ListInstances"]),
        ("admin", "operate", []),
    ],
)
def test_what_a_key_may_not_do_is_named(
    place: Place, storage: StorageSettings, role: str, purpose: str, refused: list[str]
) -> None:
    """By the roles of the server: exit code 4."""
    verified(place, storage)
    found = examined(place, "--for", purpose, role=role)
    if not refused:
        assert found.code == 0
        assert found["key"] == ("ok", f"it may do all that it takes to {purpose}")
        return
    assert found.code == ExitCode.NOT_ALLOWED
    assert found["key"] == (
        "wrong",
        f"it may not do {', '.join(refused)}; a key to {purpose} must. Set SAFE_DEPLOY_KEY to one that may",
    )
    # What can be known without it is said.
    assert ("events" in found) is (role != "publisher")


def test_a_key_that_is_bound_to_the_app_is_good_for_it_and_for_no_other(
    storage: StorageSettings, tmp_path: Path
) -> None:
    """Also GetTaskHub, which is tried with a task hub that no app has claimed."""
    bound = Place("", app="shop-of-the-key")
    keys = [*roles(), key_entry("a-deployers-key-for-one-app", "deployer", "bound", [bound.app])]
    with state_server(storage, tmp_path, keys) as served:
        own, other = Place(served.url, app=bound.app), Place(served.url)
        for place in (own, other):
            place.register()
        key = {"SAFE_DEPLOY_KEY": "a-deployers-key-for-one-app"}
        assert examined(own, **key)["key"] == ("ok", "it may do all that it takes to deploy")
        found = examined(other, **key)
        assert found.code == ExitCode.NOT_ALLOWED
        assert "bound to other apps" in found["app"][1]


@pytest.mark.parametrize("key", ["", "unknown-key-0123456789"])
def test_without_a_good_key_that_is_what_is_wrong(place: Place, key: str) -> None:
    """The server answers, but says nothing of the app."""
    place.register()
    found = examined(place, SAFE_DEPLOY_KEY=key)
    assert found.code == ExitCode.NOT_ALLOWED
    assert found.wrong() == ["key", "app"]
    assert "send a key that this server knows" in found["app"][1]


def at_path(proxy: Between, end: str, fault: Fault, method: str = "GET") -> None:
    """What goes wrong with requests to this path alone, as where every operation has keys of its own."""

    def chosen(number: int) -> Fault | None:
        seen = proxy.seen[number]
        return fault if (seen.method, seen.path.partition("?")[0].endswith(end)) == (method, True) else None

    proxy.fault = chosen


@pytest.mark.parametrize(
    ("end", "method", "answer", "code", "said"),
    [
        ("/nothing", "GET", Answer(401), ExitCode.NOT_ALLOWED, "it may not do GetTaskHub;"),
        ("/swap", "POST", Answer(401), ExitCode.NOT_ALLOWED, "it may not do PostSwap;"),
        ("/staging", "GET", Answer(403), ExitCode.NOT_ALLOWED, "it may not do GetStagingStatus;"),
        ("/cleanup", "POST", Answer(404), ExitCode.FAILURE, "Cleanup cannot be tried: there is no state server"),
        ("/staging", "DELETE", Answer(200, b"{}"), ExitCode.FAILURE, "DeleteStaging cannot be tried: "),
    ],
)
def test_every_operation_is_tried(
    place: Place, proxy: Between, end: str, method: str, answer: Answer, code: ExitCode, said: str
) -> None:
    """In Azure each has keys of its own, or may be switched off: one that is wrong does not hide what else there is."""
    place.register()
    place.publish(event(place.hub))
    at_path(proxy, end, answer, method)
    found = examined(place, SAFE_DEPLOY_SERVER=proxy.url)
    assert found.code == code
    assert found["key"][0] == "wrong"
    assert found["key"][1].startswith(said)
    assert found["app"] == ("ok", f"production {place.hub}, staging empty")
    assert ("verification" in found) is ("staging" not in end or method != "GET")


@pytest.mark.parametrize("end", ["/swap", "/staging"])
def test_an_answer_that_did_not_come_says_nothing_of_the_key(place: Place, proxy: Between, end: str) -> None:
    """A server that goes away in the middle must not make a key look good."""
    place.register()
    # Longer than the doctor's patience.
    at_path(proxy, end, Answer(503, headers={"Retry-After": "30"}), "POST")
    found = examined(place, SAFE_DEPLOY_SERVER=proxy.url)
    assert found["key"][0] == "wrong"
    assert "cannot be tried: the server answered with status 503" in found["key"][1]


# --- the app ---


def test_an_app_that_was_never_registered_is_named_with_what_to_type(place: Place) -> None:
    """The key is good all the same."""
    found = examined(place)
    assert found.code == ExitCode.FAILURE
    assert found.wrong() == ["app"]
    assert found["app"][1].startswith(f"there is no app {place.app}")
    assert found["app"][1].endswith("Tell it what is in production now: safe-deploy register")


def test_nothing_in_production_is_wrong(place: Place) -> None:
    """An empty slot counts as drained, so production that is unknown is a danger."""
    place.ask("PUT", "", {"slots": {"staging": {"taskHub": place.hub}}})
    found = examined(place)
    assert found.code == ExitCode.FAILURE
    assert found["app"] == (
        "wrong",
        "the server knows nothing in production, and takes it for empty: safe-deploy register",
    )
    assert "events" not in found


def test_an_open_deployment_is_a_warning(place: Place, storage: StorageSettings) -> None:
    """Who deploys, which run, and what."""
    verified(place, storage)
    hub = place.stage(new_hub(), 7)
    found = examined(place)
    assert found.code == 0
    standing, said = found["deployment"]
    assert standing == "warning"
    assert said.startswith(f"test, run {RUN}7 deploys task hub {hub} since 20")
    place.register()
    assert examined(place)["app"] == ("ok", f"production {place.hub}, staging {hub}")


def test_a_swap_that_was_cut_off_is_a_conflict_with_what_to_type(place: Place) -> None:
    """Nobody can stage until somebody says how it went."""
    place.register()
    hub = place.stage(new_hub(), 1)
    place.swap(hub, 1, "Pending")
    found = examined(place)
    assert found.code == ExitCode.CONFLICT
    standing, said = found["swap"]
    assert standing == "wrong"
    assert f"{RUN}1" in said
    assert f"--task-hub {hub}" in said


# --- Azure ---


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The stand-in is the `az` on the PATH."""
    install(tmp_path / "bin", tmp_path / "cloud.json")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return Cloud(tmp_path / "cloud.json")


def carry(cloud: Cloud, place: Place, sticky: tuple[str, ...] = (), **hubs: str | None) -> None:
    slots = {slot: {"settings": {"TASK_HUB": hub} if hub else {}} for slot, hub in hubs.items()}
    cloud.make({place.app: {"resourceGroup": GROUP, "slots": slots, "sticky": list(sticky)}})


def in_azure(place: Place, *options: str) -> tuple[Findings, dict[str, tuple[str, str]]]:
    found = examined(place, "--resource-group", GROUP, *options)
    return found, {question: said for question, said in found.items() if question.startswith("Azure")}


@pytest.fixture
def known(place: Place, storage: StorageSettings) -> Place:
    """An app with which all is well but for Azure."""
    return verified(place, storage)


def test_without_a_resource_group_azure_is_not_looked_at(known: Place, cloud: Cloud) -> None:
    """A warning says how to look."""
    found = examined(known)
    assert (found.code, found["Azure"][0]) == (0, "warning")
    assert "--resource-group" in found["Azure"][1]
    assert cloud.calls == []


def test_slots_that_carry_something_else_are_a_conflict(known: Place, cloud: Cloud) -> None:
    """Each slot by itself, with both sides' belief."""
    carry(cloud, known, production="other1", staging="other2")
    found, azure = in_azure(known)
    assert found.code == ExitCode.CONFLICT
    assert azure["Azure: production"] == ("wrong", f"carries other1, but the server believes {known.hub}")
    assert azure["Azure: staging"] == ("wrong", "carries other2, but the server believes it is empty")
    carry(cloud, known, production=None, staging=None)
    found, azure = in_azure(known)
    assert found.wrong() == ["Azure: production"]
    assert azure["Azure: production"][1].startswith("carries no task hub, but the server believes")


def test_task_hub_names_agree_whatever_their_case(known: Place, cloud: Cloud) -> None:
    """As storage takes them."""
    carry(cloud, known, production=known.hub.upper(), staging=None)
    found, _ = in_azure(known)
    assert found.code == 0


def test_a_setting_that_is_slot_sticky_is_wrong(known: Place, cloud: Cloud) -> None:
    """Hubs would stay with their slots at a swap."""
    carry(cloud, known, ("task_hub",), production=known.hub, staging=None)
    found, azure = in_azure(known)
    assert found.code == ExitCode.FAILURE
    assert found.wrong() == ["Azure: setting"]
    assert "not --slot-settings" in azure["Azure: setting"][1]


def test_another_setting_and_function_app_are_looked_at_as_asked(known: Place, cloud: Cloud) -> None:
    """--function-app and --hub-setting; the commands of `az` get no key."""
    slots = {"production": {"settings": {"HUB": known.hub}}, "canary": {"settings": {}}}
    cloud.make({"other": {"resourceGroup": GROUP, "slots": slots}})
    found, azure = in_azure(known, "--function-app", "other", "--hub-setting", "HUB", "--slot", "canary")
    assert found.code == 0
    assert list(azure) == ["Azure: production", "Azure: canary", "Azure: setting"]
    assert all("SAFE_DEPLOY_KEY" not in names for names in cloud.environments)


def test_an_az_that_is_not_logged_in_says_so_once(known: Place, cloud: Cloud) -> None:
    """All else is said as well."""
    carry(cloud, known, production=known.hub, staging=None)
    cloud.fault("all", message="Please run 'az login' to setup account.")
    found, azure = in_azure(known)
    assert found.code == ExitCode.FAILURE
    assert list(azure) == ["Azure: production"]
    assert azure["Azure: production"][1].startswith("az is not logged in.")
    assert "verification" in found


def test_an_az_that_is_not_there_says_so_once(known: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    found, azure = in_azure(known)
    assert found.code == ExitCode.FAILURE
    assert azure == {
        "Azure: production": ("wrong", "az, the Azure CLI, is not on the PATH. Install it where this runs.")
    }


def test_a_slot_that_is_not_in_azure_is_named(known: Place, cloud: Cloud) -> None:
    """The other slot and the setting are looked at all the same."""
    carry(cloud, known, production=known.hub)
    found, azure = in_azure(known)
    assert found.code == ExitCode.FAILURE
    assert [standing for standing, _ in azure.values()] == ["ok", "wrong", "ok"]
    assert "Azure does not show slot 'staging'" in azure["Azure: staging"][1]


# --- events and verification ---


@pytest.mark.parametrize("verified", [False, True])
def test_events_that_never_came_are_wrong_where_nothing_else_is_known(
    place: Place, storage: StorageSettings, verified: bool
) -> None:
    """With verification they are a warning."""
    started(storage, place.hub)
    place.register(**(VERIFIED if verified else {}))
    found = examined(place)
    assert found["events"][0] == ("warning" if verified else "wrong")
    assert found["events"][1].startswith(f"none ever came of task hub {place.hub}: look at the topic's settings")
    assert found.code == (0 if verified else ExitCode.FAILURE)


def test_the_age_of_the_last_event_is_said(place: Place) -> None:
    """Old is not wrong: an app may have nothing to do."""
    place.register()
    place.publish(event(place.hub, time=at(-3 * 86_400)))
    found = examined(place)
    assert found["events"] == ("ok", f"the last one of task hub {place.hub} is 3 d old")


def test_events_that_cannot_be_asked_for_are_wrong(known: Place, proxy: Between) -> None:
    """A key that may not ask ends neither the examination nor hides what was found before."""
    at_path(proxy, "/staging", Answer(401))
    found = examined(known, SAFE_DEPLOY_SERVER=proxy.url)
    assert found.code == ExitCode.NOT_ALLOWED
    assert found.wrong() == ["key", "events"]


def test_verification_that_is_off_is_something_to_fix_and_the_finding_says_what_to_type(place: Place) -> None:
    """By events alone a slot can stay NotReady for ever."""
    place.register()
    place.publish(event(place.hub))
    found = examined(place)
    assert found.code == ExitCode.FAILURE
    assert found.wrong() == ["verification"]
    assert found["verification"][1].endswith(
        "To have the server read the app's task hubs (PutApp, taskHubs), type: safe-deploy register --task-hub HUB "
        "--provider azureStorage --connection SETTING"
    )
    assert "stays active for ever" in found["verification"][1]


def test_verification_that_is_required_and_off_is_wrong(place: Place) -> None:
    """Nothing will ever be Ready."""
    place.register(policy={"requireVerification": True})
    place.publish(event(place.hub))
    found = examined(place)
    assert found.code == ExitCode.FAILURE
    assert found["verification"][0] == "wrong"
    assert "the app's policy requires verification, but no probe" in found["verification"][1]


def test_verification_that_is_not_required_is_a_warning(place: Place, storage: StorageSettings) -> None:
    """Somebody could switch it off, and nobody would see."""
    started(storage, place.hub, order="Running")
    place.register(taskHubs=SOURCE)
    found = examined(place)
    assert found.code == 0
    assert found["verification"] == (
        "warning",
        "azureStorage; the policy does not require it, so it can be switched off unnoticed",
    )


def test_verification_of_a_task_hub_that_is_not_there_is_wrong(place: Place) -> None:
    """Another storage account, or an app that never started."""
    place.register(**VERIFIED)
    found = examined(place)
    assert found.code == ExitCode.FAILURE
    assert found["verification"][0] == "wrong"
    assert f"task hub {place.hub} could not be read: " in found["verification"][1]


def test_verification_that_has_lost_its_setting_is_wrong(
    place: Place, storage: StorageSettings, tmp_path: Path
) -> None:
    """The server was started anew without it."""
    place.register(**VERIFIED)
    with state_server(storage, tmp_path, roles()) as forgetful:
        found = examined(place, SAFE_DEPLOY_SERVER=forgetful.url)
    assert found.code == ExitCode.FAILURE
    assert found["verification"][0] == "wrong"
    assert "STATE_TASKHUBS_SHOP" in found["verification"][1]


def test_verification_that_was_not_tried_is_not_said_to_be_good(place: Place, storage: StorageSettings) -> None:
    """While events settle, the server does not read the task hub."""
    started(storage, place.hub)
    place.register(**VERIFIED | {"policy": {"settleSeconds": 60, "requireVerification": True}})
    place.publish(event(place.hub, status="Completed"))
    found = examined(place)
    assert found.code == 0
    assert found["verification"][0] == "warning"
    assert found["verification"][1].startswith("azureStorage; it was not tried through just now: ")
