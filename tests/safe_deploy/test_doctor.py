"""`safe-deploy doctor` against a real server with keys, and the stand-in for `az`: every message, and its exit code."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.state_server import ServerProcess
from safe_deploy.client import PipelineCaller, StateServerClient
from safe_deploy.diagnostics import RETRY_SECONDS, CheckStatus, KeyPurpose, run_checks
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.backends.azure_storage_task_hub import ProviderTaskHub
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.keys import key_entry
from tests.pipelines.fake_az import FakeAzure, install_fake_az
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.fault_proxy import CannedResponse, Fault, FaultProxy, run_fault_proxy
from tests.safe_deploy.in_process import InProcessResult, run
from tests.safe_deploy.processes import KEYS, server_key_entries, state_server

PROVIDER_CONFIG = {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}
VERIFIED: dict[str, Any] = {"taskHubs": PROVIDER_CONFIG, "policy": {"settleSeconds": 0, "requireVerification": True}}


class CheckResults(dict[str, tuple[str, str]]):
    """What the doctor said, by check: how it stands, and the words."""

    def __init__(self, ended: InProcessResult) -> None:
        listed = json.loads(ended.out)
        super().__init__({one["check"]: (one["status"], one["message"]) for one in listed})
        assert len(self) == len(listed), "every check is answered once"
        self.code = ended.code
        self.err = ended.err

    def failed_checks(self) -> list[str]:
        return [question for question, (standing, _) in self.items() if standing == "failed"]


def run_doctor(app_client: AppClient, *options: str, role: str = "deployer", **given: str) -> CheckResults:
    """Let the doctor look. It shows no key, and what is wrong is on stderr, too."""
    ended = run(["doctor", "--output", "json", *options], app_client.given(role, **given))
    assert "Traceback" not in ended.err
    assert not any(key in ended.out + ended.err for key in KEYS.values())
    found = CheckResults(ended)
    assert (ended.code == 0) is (not found.failed_checks())
    for question in found.failed_checks():
        assert f"{question}: {found[question][1]}" in ended.err
    return found


@pytest.fixture
def proxy(served: ServerProcess) -> Iterator[FaultProxy]:
    with run_fault_proxy(served.url) as one:
        yield one


def create_provider_hub(storage: StorageSettings, hub: str, **instances: str) -> None:
    """The task hub's own table, as the app makes it when it starts, with these instances."""

    async def create() -> None:
        async with ProviderTaskHub(storage, hub) as provider:
            await provider.create()
            for instance, status in instances.items():
                await provider.put(instance, status)

    asyncio.run(create())


def verified(app_client: AppClient, storage: StorageSettings) -> AppClient:
    """An app whose task hub the server reads, with one active instance in it."""
    create_provider_hub(storage, app_client.hub, **{"order-1": "Running"})
    app_client.register(taskHubs=PROVIDER_CONFIG)
    app_client.publish(event(app_client.hub))
    return app_client


# --- all is well ---


def test_where_all_is_well_the_doctor_says_so(
    app_client: AppClient, storage: StorageSettings, fake_azure: FakeAzure
) -> None:
    """Every check is answered, none with a warning."""
    create_provider_hub(storage, app_client.hub)
    app_client.register(**VERIFIED)
    app_client.publish(event(app_client.hub, status="Completed", time=timestamp(-7300)))
    set_slot_task_hubs(fake_azure, app_client, production=app_client.hub, staging=None)
    found = run_doctor(app_client, "--resource-group", RESOURCE_GROUP)
    assert found.code == 0
    assert found.err == ""
    assert found == {
        "server": ("ok", f"{app_client.url} and its storage answer"),
        "key": ("ok", "it permits all operations that --for deploy needs"),
        "app": ("ok", f"production {app_client.hub}, staging empty"),
        "Azure: production": ("ok", f"has {app_client.hub}, as on the server"),
        "Azure: staging": ("ok", "has no task hub, as on the server"),
        "Azure: setting": ("ok", "the app setting with the task hub name moves with the code"),
        "events": ("ok", f"the last event of task hub {app_client.hub} is 2 h old"),
        "verification": ("ok", "azureStorage, and the policy requires it"),
    }


def test_for_people_findings_are_a_table(app_client: AppClient) -> None:
    """What is wrong is repeated as the error."""
    app_client.register()
    ended = run(["doctor"], app_client.given())
    assert ended.code == ExitCode.FAILURE
    rows = [" ".join(line.split()) for line in ended.out.splitlines() if line.strip()]
    assert rows[0] == "Status Check Message"
    assert f"ok app production {app_client.hub}, staging empty" in rows
    assert any(
        row.startswith(f"failed events no event of task hub {app_client.hub} has ever arrived. Check") for row in rows
    )
    assert ended.err.startswith("error: events: no event of task hub")


def test_the_doctor_changes_nothing(app_client: AppClient) -> None:
    """Whatever it tries; not even the audit log knows that it was there."""
    app_client.register()
    app_client.stage(new_hub_name(), 1)
    before = app_client.request_json("GET"), app_client.history()
    for role in KEYS:
        run_doctor(app_client, "--for", KeyPurpose.ADMINISTER, role=role)
    assert (app_client.request_json("GET"), app_client.history()) == before


# --- the server and the key ---


def test_a_server_that_is_not_there_ends_the_examination(app_client: AppClient) -> None:
    """Nothing else can be known. It is tried again for a while, but not for as long as in a deployment."""
    assert RETRY_SECONDS <= 15
    with run_fault_proxy() as gone:
        url = gone.url
    reported: list[str] = []
    with StateServerClient(
        url,
        app_client.app,
        key=KEYS["deployer"],
        caller=PipelineCaller(),
        report=reported.append,
        retry_seconds=1.5,
    ) as server:
        (finding,) = run_checks(
            server, slot="staging", deployment_slots=None, purpose=KeyPurpose.DEPLOY, now=datetime.now(UTC)
        )
    assert (finding.check, finding.status, finding.exit_code) == ("server", CheckStatus.FAILED, ExitCode.FAILURE)
    assert finding.message == f"the server {url} cannot be reached: [Errno 111] Connection refused"
    assert reported == [f"{finding.message}; trying again"]


def test_another_kind_of_server_is_told_apart(app_client: AppClient, proxy: FaultProxy) -> None:
    """One that answers everything, but not as a state server."""
    proxy.always_inject(CannedResponse(200, b"<html>Welcome</html>"))
    found = run_doctor(app_client, SAFE_DEPLOY_SERVER=proxy.url)
    assert found.code == ExitCode.FAILURE
    assert "is not a state server" in found["server"][1]


READING = ["GetApp", "GetStagingStatus", "GetHistory", "GetTaskHub"]
DEPLOYING = ["PostStaging", "DeleteStaging", "PostSwap", "Cleanup"]


@pytest.mark.parametrize(
    ("role", "purpose", "refused"),
    [
        ("reader", "read", []),
        ("reader", "deploy", DEPLOYING),
        ("reader", "administer", [*DEPLOYING, "PutApp", "PostWaiver"]),
        ("deployer", "read", []),
        ("deployer", "deploy", []),
        ("deployer", "administer", ["PutApp"]),
        ("publisher", "read", READING),
        ("publisher", "administer", [*READING, *DEPLOYING, "PutApp", "PostWaiver", "ListInstances"]),
        ("admin", "administer", []),
    ],
)
def test_what_a_key_may_not_do_is_named(
    app_client: AppClient, storage: StorageSettings, role: str, purpose: str, refused: list[str]
) -> None:
    """By the roles of the server: exit code 4."""
    verified(app_client, storage)
    found = run_doctor(app_client, "--for", purpose, role=role)
    if not refused:
        assert found.code == 0
        assert found["key"] == ("ok", f"it permits all operations that --for {purpose} needs")
        return
    assert found.code == ExitCode.NOT_ALLOWED
    assert found["key"] == (
        "failed",
        f"it does not permit {', '.join(refused)}, which --for {purpose} needs. Set SAFE_DEPLOY_KEY to a key that does",
    )
    # What can be known without it is said.
    assert ("events" in found) is (role != "publisher")


def test_a_key_that_is_bound_to_the_app_is_good_for_it_and_for_no_other(
    storage: StorageSettings, tmp_path: Path
) -> None:
    """Also GetTaskHub, which is tried with a task hub that no app has claimed."""
    bound = AppClient("", app="shop-of-the-key")
    keys = [*server_key_entries(), key_entry("a-deployers-key-for-one-app", "deployer", "bound", [bound.app])]
    with state_server(storage, tmp_path, keys) as served:
        own, other = AppClient(served.url, app=bound.app), AppClient(served.url)
        for app_client in (own, other):
            app_client.register()
        key = {"SAFE_DEPLOY_KEY": "a-deployers-key-for-one-app"}
        assert run_doctor(own, **key)["key"] == ("ok", "it permits all operations that --for deploy needs")
        found = run_doctor(other, **key)
        assert found.code == ExitCode.NOT_ALLOWED
        assert "bound to other apps" in found["app"][1]


@pytest.mark.parametrize("key", ["", "unknown-key-0123456789"])
def test_without_a_good_key_that_is_what_is_wrong(app_client: AppClient, key: str) -> None:
    """The server answers, but says nothing of the app."""
    app_client.register()
    found = run_doctor(app_client, SAFE_DEPLOY_KEY=key)
    assert found.code == ExitCode.NOT_ALLOWED
    assert found.failed_checks() == ["key", "app"]
    assert "send a key that this server knows" in found["app"][1]


def inject_fault_at_path(proxy: FaultProxy, end: str, fault: Fault, method: str = "GET") -> None:
    """What goes wrong with requests to this path alone, as where every operation has keys of its own."""

    def chosen(number: int) -> Fault | None:
        seen = proxy.received[number]
        return fault if (seen.method, seen.path.partition("?")[0].endswith(end)) == (method, True) else None

    proxy.fault = chosen


@pytest.mark.parametrize(
    ("end", "method", "answer", "code", "said"),
    [
        ("/nothing", "GET", CannedResponse(401), ExitCode.NOT_ALLOWED, "it does not permit GetTaskHub,"),
        ("/swap", "POST", CannedResponse(401), ExitCode.NOT_ALLOWED, "it does not permit PostSwap,"),
        ("/staging", "GET", CannedResponse(403), ExitCode.NOT_ALLOWED, "it does not permit GetStagingStatus,"),
        (
            "/cleanup",
            "POST",
            CannedResponse(404),
            ExitCode.FAILURE,
            "Cleanup cannot be tried: there is no state server",
        ),
        ("/staging", "DELETE", CannedResponse(200, b"{}"), ExitCode.FAILURE, "DeleteStaging cannot be tried: "),
    ],
)
def test_every_operation_is_tried(
    app_client: AppClient, proxy: FaultProxy, end: str, method: str, answer: CannedResponse, code: ExitCode, said: str
) -> None:
    """In Azure each has keys of its own, or may be switched off: one that is wrong does not hide what else there is."""
    app_client.register()
    app_client.publish(event(app_client.hub))
    inject_fault_at_path(proxy, end, answer, method)
    found = run_doctor(app_client, SAFE_DEPLOY_SERVER=proxy.url)
    assert found.code == code
    assert found["key"][0] == "failed"
    assert found["key"][1].startswith(said)
    assert found["app"] == ("ok", f"production {app_client.hub}, staging empty")
    assert ("verification" in found) is ("staging" not in end or method != "GET")


@pytest.mark.parametrize("end", ["/swap", "/staging"])
def test_an_answer_that_did_not_come_says_nothing_of_the_key(
    app_client: AppClient, proxy: FaultProxy, end: str
) -> None:
    """A server that goes away in the middle must not make a key look good."""
    app_client.register()
    # Longer than the doctor's patience.
    inject_fault_at_path(proxy, end, CannedResponse(503, headers={"Retry-After": "30"}), "POST")
    found = run_doctor(app_client, SAFE_DEPLOY_SERVER=proxy.url)
    assert found["key"][0] == "failed"
    assert "cannot be tried: the server answered with status 503" in found["key"][1]


# --- the app ---


def test_an_app_that_was_never_registered_is_named_with_what_to_type(app_client: AppClient) -> None:
    """The key is good all the same."""
    found = run_doctor(app_client)
    assert found.code == ExitCode.FAILURE
    assert found.failed_checks() == ["app"]
    assert found["app"][1].startswith(f"there is no app {app_client.app}")
    assert found["app"][1].endswith("Register the task hub in production: safe-deploy register")


def test_nothing_in_production_is_wrong(app_client: AppClient) -> None:
    """An empty slot counts as drained, so production that is unknown is a danger."""
    app_client.request_json("PUT", "", {"slots": {"staging": {"taskHub": app_client.hub}}})
    found = run_doctor(app_client)
    assert found.code == ExitCode.FAILURE
    assert found["app"] == (
        "failed",
        (
            "the server has no task hub on record in production, so it counts as empty. Register the task hub in "
            "production: safe-deploy register"
        ),
    )
    assert "events" not in found


def test_an_open_deployment_is_a_warning(app_client: AppClient, storage: StorageSettings) -> None:
    """Who deploys, which run, and what."""
    verified(app_client, storage)
    hub = app_client.stage(new_hub_name(), 7)
    found = run_doctor(app_client)
    assert found.code == 0
    standing, said = found["deployment"]
    assert standing == "warning"
    assert said.startswith(f"test (run {RUN}7) has been deploying task hub {hub} since 20")
    app_client.register()
    assert run_doctor(app_client)["app"] == ("ok", f"production {app_client.hub}, staging {hub}")


def test_a_swap_that_was_cut_off_is_a_conflict_with_what_to_type(app_client: AppClient) -> None:
    """Nobody can stage until somebody says how it went."""
    app_client.register()
    hub = app_client.stage(new_hub_name(), 1)
    app_client.swap(hub, 1, "Pending")
    found = run_doctor(app_client)
    assert found.code == ExitCode.CONFLICT
    standing, said = found["swap"]
    assert standing == "failed"
    assert f"{RUN}1" in said
    assert f"--task-hub {hub}" in said


# --- Azure ---


@pytest.fixture
def fake_azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAzure:
    """The stand-in is the `az` on the PATH."""
    install_fake_az(tmp_path / "bin", tmp_path / "cloud.json")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return FakeAzure(tmp_path / "cloud.json")


def set_slot_task_hubs(
    fake_azure: FakeAzure, app_client: AppClient, sticky: tuple[str, ...] = (), **hubs: str | None
) -> None:
    slots = {slot: {"settings": {"TASK_HUB": hub} if hub else {}} for slot, hub in hubs.items()}
    fake_azure.reset({app_client.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots, "sticky": list(sticky)}})


def run_doctor_with_azure(app_client: AppClient, *options: str) -> tuple[CheckResults, dict[str, tuple[str, str]]]:
    found = run_doctor(app_client, "--resource-group", RESOURCE_GROUP, *options)
    return found, {question: said for question, said in found.items() if question.startswith("Azure")}


@pytest.fixture
def known(app_client: AppClient, storage: StorageSettings) -> AppClient:
    """An app with which all is well but for Azure."""
    return verified(app_client, storage)


def test_without_a_resource_group_azure_is_not_looked_at(known: AppClient, fake_azure: FakeAzure) -> None:
    """A warning says how to look."""
    found = run_doctor(known)
    assert (found.code, found["Azure"][0]) == (0, "warning")
    assert "--resource-group" in found["Azure"][1]
    assert fake_azure.calls == []


def test_slots_that_carry_something_else_are_a_conflict(known: AppClient, fake_azure: FakeAzure) -> None:
    """Each slot by itself, with both sides' belief."""
    set_slot_task_hubs(fake_azure, known, production="other1", staging="other2")
    found, azure = run_doctor_with_azure(known)
    assert found.code == ExitCode.CONFLICT
    assert azure["Azure: production"] == (
        "failed",
        f"has other1, but the server has {known.hub} on record. Correct the one that is wrong",
    )
    assert azure["Azure: staging"] == (
        "failed",
        "has other2, but the server has no task hub on record. Correct the one that is wrong",
    )
    set_slot_task_hubs(fake_azure, known, production=None, staging=None)
    found, azure = run_doctor_with_azure(known)
    assert found.failed_checks() == ["Azure: production"]
    assert azure["Azure: production"][1].startswith("has no task hub, but the server has")


def test_task_hub_names_agree_whatever_their_case(known: AppClient, fake_azure: FakeAzure) -> None:
    """As storage takes them."""
    set_slot_task_hubs(fake_azure, known, production=known.hub.upper(), staging=None)
    found, _ = run_doctor_with_azure(known)
    assert found.code == 0


def test_a_setting_that_is_slot_sticky_is_wrong(known: AppClient, fake_azure: FakeAzure) -> None:
    """Hubs would stay with their slots at a swap."""
    set_slot_task_hubs(fake_azure, known, ("task_hub",), production=known.hub, staging=None)
    found, azure = run_doctor_with_azure(known)
    assert found.code == ExitCode.FAILURE
    assert found.failed_checks() == ["Azure: setting"]
    assert "not --slot-settings" in azure["Azure: setting"][1]


def test_another_setting_and_function_app_are_looked_at_as_asked(known: AppClient, fake_azure: FakeAzure) -> None:
    """--function-app and --task-hub-setting; the commands of `az` get no key."""
    slots = {"production": {"settings": {"HUB": known.hub}}, "canary": {"settings": {}}}
    fake_azure.reset({"other": {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    found, azure = run_doctor_with_azure(
        known, "--function-app", "other", "--task-hub-setting", "HUB", "--slot", "canary"
    )
    assert found.code == 0
    assert list(azure) == ["Azure: production", "Azure: canary", "Azure: setting"]
    assert all("SAFE_DEPLOY_KEY" not in names for names in fake_azure.environments)


def test_an_az_that_is_not_logged_in_says_so_once(known: AppClient, fake_azure: FakeAzure) -> None:
    """All else is said as well."""
    set_slot_task_hubs(fake_azure, known, production=known.hub, staging=None)
    fake_azure.fault("all", message="Please run 'az login' to setup account.")
    found, azure = run_doctor_with_azure(known)
    assert found.code == ExitCode.FAILURE
    assert list(azure) == ["Azure: production"]
    assert azure["Azure: production"][1].startswith("az is not logged in.")
    assert "verification" in found


def test_an_az_that_is_not_there_says_so_once(
    known: AppClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    found, azure = run_doctor_with_azure(known)
    assert found.code == ExitCode.FAILURE
    assert azure == {
        "Azure: production": (
            "failed",
            "az, the Azure CLI, is not on the PATH. Install it on the machine that runs safe-deploy.",
        )
    }


def test_a_slot_that_is_not_in_azure_is_named(known: AppClient, fake_azure: FakeAzure) -> None:
    """The other slot and the setting are looked at all the same."""
    set_slot_task_hubs(fake_azure, known, production=known.hub)
    found, azure = run_doctor_with_azure(known)
    assert found.code == ExitCode.FAILURE
    assert [standing for standing, _ in azure.values()] == ["ok", "failed", "ok"]
    assert "Azure has no slot 'staging'" in azure["Azure: staging"][1]


# --- events and verification ---


@pytest.mark.parametrize("verified", [False, True])
def test_events_that_never_came_are_wrong_where_nothing_else_is_known(
    app_client: AppClient, storage: StorageSettings, verified: bool
) -> None:
    """With verification they are a warning."""
    create_provider_hub(storage, app_client.hub)
    app_client.register(**(VERIFIED if verified else {}))
    found = run_doctor(app_client)
    assert found["events"][0] == ("warning" if verified else "failed")
    assert found["events"][1].startswith(
        f"no event of task hub {app_client.hub} has ever arrived. Check the app's settings"
    )
    assert found.code == (0 if verified else ExitCode.FAILURE)


def test_the_age_of_the_last_event_is_said(app_client: AppClient) -> None:
    """Old is not wrong: an app may have nothing to do."""
    app_client.register()
    app_client.publish(event(app_client.hub, time=timestamp(-3 * 86_400)))
    found = run_doctor(app_client)
    assert found["events"] == ("ok", f"the last event of task hub {app_client.hub} is 3 d old")


def test_events_that_cannot_be_asked_for_are_wrong(known: AppClient, proxy: FaultProxy) -> None:
    """A key that may not ask ends neither the examination nor hides what was found before."""
    inject_fault_at_path(proxy, "/staging", CannedResponse(401))
    found = run_doctor(known, SAFE_DEPLOY_SERVER=proxy.url)
    assert found.code == ExitCode.NOT_ALLOWED
    assert found.failed_checks() == ["key", "events"]


def test_verification_that_is_off_is_something_to_fix_and_the_finding_says_what_to_type(app_client: AppClient) -> None:
    """By events alone a slot can stay NotReady for ever."""
    app_client.register()
    app_client.publish(event(app_client.hub))
    found = run_doctor(app_client)
    assert found.code == ExitCode.FAILURE
    assert found.failed_checks() == ["verification"]
    assert found["verification"][1].endswith(
        "To have the server read the app's task hubs, run: safe-deploy register --task-hub HUB "
        "--provider azureStorage --connection SETTING"
    )
    assert "stays active for ever" in found["verification"][1]


def test_verification_that_is_required_and_off_is_wrong(app_client: AppClient) -> None:
    """Nothing will ever be Ready."""
    app_client.register(policy={"requireVerification": True})
    app_client.publish(event(app_client.hub))
    found = run_doctor(app_client)
    assert found.code == ExitCode.FAILURE
    assert found["verification"][0] == "failed"
    assert "the app's policy requires verification, but no probe" in found["verification"][1]


def test_verification_that_is_not_required_is_a_warning(app_client: AppClient, storage: StorageSettings) -> None:
    """Somebody could switch it off, and nobody would see."""
    create_provider_hub(storage, app_client.hub, order="Running")
    app_client.register(taskHubs=PROVIDER_CONFIG)
    found = run_doctor(app_client)
    assert found.code == 0
    assert found["verification"] == (
        "warning",
        (
            "azureStorage, but the policy does not require it, so removing the provider would go unnoticed. Run "
            "safe-deploy register with --require-verification"
        ),
    )


def test_verification_of_a_task_hub_that_is_not_there_is_wrong(app_client: AppClient) -> None:
    """Another storage account, or an app that never started."""
    app_client.register(**VERIFIED)
    found = run_doctor(app_client)
    assert found.code == ExitCode.FAILURE
    assert found["verification"][0] == "failed"
    assert f"task hub {app_client.hub} could not be read: " in found["verification"][1]


def test_verification_that_has_lost_its_setting_is_wrong(
    app_client: AppClient, storage: StorageSettings, tmp_path: Path
) -> None:
    """The server was started anew without it."""
    app_client.register(**VERIFIED)
    with state_server(storage, tmp_path, server_key_entries()) as forgetful:
        found = run_doctor(app_client, SAFE_DEPLOY_SERVER=forgetful.url)
    assert found.code == ExitCode.FAILURE
    assert found["verification"][0] == "failed"
    assert "STATE_TASKHUBS_SHOP" in found["verification"][1]


def test_verification_that_was_not_tried_is_not_said_to_be_good(
    app_client: AppClient, storage: StorageSettings
) -> None:
    """While events settle, the server does not read the task hub."""
    create_provider_hub(storage, app_client.hub)
    app_client.register(**VERIFIED | {"policy": {"settleSeconds": 60, "requireVerification": True}})
    app_client.publish(event(app_client.hub, status="Completed"))
    found = run_doctor(app_client)
    assert found.code == 0
    assert found["verification"][0] == "warning"
    assert found["verification"][1].startswith("azureStorage, but the task hub was not read for this verdict: ")
