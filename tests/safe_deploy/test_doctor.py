"""`safe-deploy doctor` against a real server with keys and the fake `az`: every message, and its exit code."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from safe_deploy.client import PipelineCaller, StateServerClient
from safe_deploy.diagnostics.checks import RETRY_SECONDS, run_checks
from safe_deploy.diagnostics.keys import KeyPurpose
from safe_deploy.diagnostics.options import CheckOptions
from safe_deploy.diagnostics.results import CheckStatus
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.builders import event, timestamp
from tests.conftest import new_hub_name
from tests.keys import key_entry
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.doctor_azure import run_guarded_app
from tests.safe_deploy.doctor_runner import (
    PROVIDER_CONFIG,
    VERIFIED,
    create_provider_hub,
    register_verified_app,
    run_doctor,
)
from tests.safe_deploy.fault_proxy import CannedResponse, Fault, FaultProxy, run_fault_proxy
from tests.safe_deploy.in_process import run_in_process
from tests.safe_deploy.processes import KEYS, server_key_entries, state_server

# --- a complete set-up ---


def test_every_check_passes_on_a_complete_set_up(
    app_client: AppClient, storage: StorageSettings, azure_on_path: FakeAzure
) -> None:
    create_provider_hub(storage, app_client.hub)
    app_client.register(**VERIFIED)
    app_client.publish(event(app_client.hub, status="Completed", time=timestamp(-7300)))
    with run_guarded_app(app_client, azure_on_path) as guarded:
        results = guarded.run()
    assert results.code == ExitCode.DONE
    assert results.err == "publishing a test event to 127.0.0.1, and waiting up to 60 s for it\n"
    events = ("site names", "host.json", "topic: production", "topic: staging", "event subscription", "test event")
    others = {check: results.pop(check)[0] for check in (*events, "extension", "status URLs")}
    unknown = dict.fromkeys(("host.json", "extension", "status URLs"), "unknown")
    assert others == dict.fromkeys(events, "ok") | unknown
    assert results == {
        "server": ("ok", f"{app_client.url} and its storage answer"),
        "key": ("ok", "it permits all operations that --for deploy needs"),
        "app": ("ok", f"production {app_client.hub}, staging empty"),
        "Azure: production": ("ok", f"has {app_client.hub}, as on the server"),
        "Azure: staging": ("ok", "has no task hub, as on the server"),
        "Azure: setting": ("ok", "the app setting with the task hub name moves with the code"),
        "events": ("ok", f"the last event of task hub {app_client.hub} is 2 h old"),
        "verification": ("ok", "azureStorage, and the policy requires it"),
    }


def test_results_are_printed_as_a_table(app_client: AppClient) -> None:
    """The error on stderr names the failed checks."""
    app_client.register()
    result = run_in_process(["doctor"], app_client.build_environment())
    assert result.code == ExitCode.FAILURE
    rows = [" ".join(line.split()) for line in result.out.splitlines() if line.strip()]
    assert rows[0] == "Status Check Message"
    assert f"ok app production {app_client.hub}, staging empty" in rows
    assert any(
        row.startswith(f"failed events no event of task hub {app_client.hub} has ever arrived. Check") for row in rows
    )
    assert result.err.splitlines()[-1] == "error: 2 checks failed: events, verification"


def test_doctor_changes_nothing(app_client: AppClient) -> None:
    """Neither the app nor its audit log changes, with any key."""
    app_client.register()
    app_client.stage(new_hub_name(), run_number=1)
    before = app_client.request_json("GET"), app_client.history()
    for role in KEYS:
        run_doctor(app_client, "--for", KeyPurpose.ADMINISTER, role=role)
    assert (app_client.request_json("GET"), app_client.history()) == before


# --- the server and the key ---


def test_an_unreachable_server_ends_the_checks(app_client: AppClient) -> None:
    """No other check is possible. Requests are retried for a shorter time than in a deployment."""
    assert RETRY_SECONDS <= 15
    with run_fault_proxy() as closed_proxy:
        url = closed_proxy.url
    reported: list[str] = []
    with StateServerClient(
        url,
        app_client.app,
        key=KEYS["deployer"],
        caller=PipelineCaller(),
        report=reported.append,
        retry_seconds=1.5,
    ) as server:
        options = CheckOptions(
            purpose=KeyPurpose.DEPLOY,
            slot="staging",
            deployment_slots=None,
            function_apps=None,
            task_hub_setting="TASK_HUB",
            status_url=None,
            now=datetime.now(UTC),
        )
        (check_result,) = run_checks(server, options)
    assert (check_result.check, check_result.status, check_result.exit_code) == (
        "server",
        CheckStatus.FAILED,
        ExitCode.FAILURE,
    )
    assert check_result.message.startswith(f"no server listens at {url} on this machine")
    assert reported == []


def test_a_server_that_is_not_a_state_server_fails_the_check(app_client: AppClient, proxy: FaultProxy) -> None:
    proxy.always_inject(CannedResponse(200, b"<html>Welcome</html>"))
    results = run_doctor(app_client, SAFE_DEPLOY_SERVER=proxy.url)
    assert results.code == ExitCode.FAILURE
    assert "is not a state server" in results["server"][1]


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
def test_operations_that_a_key_does_not_permit_are_named(
    app_client: AppClient, storage: StorageSettings, role: str, purpose: str, refused: list[str]
) -> None:
    """If the key does not permit an operation, the exit code of the doctor is 4."""
    register_verified_app(app_client, storage)
    results = run_doctor(app_client, "--for", purpose, role=role)
    if not refused:
        assert results.code == ExitCode.DONE
        assert results["key"] == ("ok", f"it permits all operations that --for {purpose} needs")
        return
    assert results.code == ExitCode.NOT_ALLOWED
    assert results["key"] == (
        "failed",
        f"it does not permit {', '.join(refused)}, which --for {purpose} needs. Set SAFE_DEPLOY_KEY to a key that does",
    )
    # The checks that the key permits are made.
    assert ("events" in results) is (role != "publisher")


def test_a_key_bound_to_an_app_passes_for_that_app_only(storage: StorageSettings, tmp_path: Path) -> None:
    """GetTaskHub is tried with a task hub that no app has claimed, which must not fail the check."""
    bound = AppClient("", app="shop-of-the-key")
    keys = [*server_key_entries(), key_entry("a-deployers-key-for-one-app", "deployer", "bound", [bound.app])]
    with state_server(storage, tmp_path, keys) as served:
        own, other = AppClient(served.url, app=bound.app), AppClient(served.url)
        for app_client in (own, other):
            app_client.register()
        key = {"SAFE_DEPLOY_KEY": "a-deployers-key-for-one-app"}
        assert run_doctor(own, **key)["key"] == ("ok", "it permits all operations that --for deploy needs")
        results = run_doctor(other, **key)
        assert results.code == ExitCode.NOT_ALLOWED
        assert "bound to other apps" in results["app"][1]


@pytest.mark.parametrize("key", ["", "unknown-key-0123456789"])
def test_an_unknown_key_fails_the_checks_of_key_and_app(app_client: AppClient, key: str) -> None:
    app_client.register()
    results = run_doctor(app_client, SAFE_DEPLOY_KEY=key)
    assert results.code == ExitCode.NOT_ALLOWED
    assert results.failed_checks() == ["key", "app"]
    assert "the key is missing or unknown" in results["app"][1]


def inject_fault_at_path(proxy: FaultProxy, end: str, fault: Fault, method: str = "GET") -> None:
    """Inject a fault into requests with this method whose path ends with `end`."""

    def choose_fault(request_number: int) -> Fault | None:
        """The fault for the request that the test names; none for all others."""
        request = proxy.received[request_number]
        is_chosen = request.method == method and request.path.partition("?")[0].endswith(end)
        return fault if is_chosen else None

    proxy.fault = choose_fault


@pytest.mark.parametrize(
    ("end", "method", "response", "code", "message"),
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
    app_client: AppClient,
    proxy: FaultProxy,
    end: str,
    method: str,
    response: CannedResponse,
    *,
    code: ExitCode,
    message: str,
) -> None:
    """In Azure an operation may have its own key or be disabled.

    The failure of one operation does not hide the results of the others.
    """
    app_client.register()
    app_client.publish(event(app_client.hub))
    inject_fault_at_path(proxy, end, response, method)
    results = run_doctor(app_client, SAFE_DEPLOY_SERVER=proxy.url)
    assert results.code == code
    assert results["key"][0] == "failed"
    assert results["key"][1].startswith(message)
    assert results["app"] == ("ok", f"production {app_client.hub}, staging empty")
    assert ("verification" in results) is ("staging" not in end or method != "GET")


@pytest.mark.parametrize("end", ["/swap", "/staging"])
def test_an_unavailable_server_does_not_pass_the_check_of_the_key(
    app_client: AppClient, proxy: FaultProxy, end: str
) -> None:
    app_client.register()
    # Longer than RETRY_SECONDS.
    inject_fault_at_path(proxy, end, CannedResponse(503, headers={"Retry-After": "30"}), "POST")
    results = run_doctor(app_client, SAFE_DEPLOY_SERVER=proxy.url)
    assert results["key"][0] == "failed"
    assert "cannot be tried: the server answered with status 503" in results["key"][1]


# --- the app ---


def test_an_unregistered_app_is_reported_with_the_command_to_run(app_client: AppClient) -> None:
    """The check of the key passes, because the key does not depend on the app."""
    results = run_doctor(app_client)
    assert results.code == ExitCode.FAILURE
    assert results.failed_checks() == ["app"]
    assert results["app"][1].startswith(f"AppNotFound: the server has no app {app_client.app}")
    assert results["app"][1].endswith("registers its task hub in production: safe-deploy register --create")


def test_an_empty_production_fails_the_check_of_the_app(app_client: AppClient) -> None:
    """An empty slot counts as drained, so an unregistered production could be overwritten."""
    app_client.request_json("PUT", "", {"slots": {"staging": {"taskHub": app_client.hub}}})
    results = run_doctor(app_client)
    assert results.code == ExitCode.FAILURE
    assert results["app"] == (
        "failed",
        (
            "the server has no task hub on record in production, so it counts as empty. Register the task hub in "
            "production: safe-deploy register"
        ),
    )
    assert "events" not in results


def test_an_open_deployment_is_a_warning(app_client: AppClient, storage: StorageSettings) -> None:
    """The message names the caller, the run and the task hub of the open deployment."""
    register_verified_app(app_client, storage)
    hub = app_client.stage(new_hub_name(), run_number=7)
    results = run_doctor(app_client)
    assert results.code == ExitCode.DONE
    status, message = results["deployment"]
    assert status == "warning"
    assert message.startswith(f"test (run {RUN}7) has been deploying task hub {hub} since 20")
    app_client.register()
    assert run_doctor(app_client)["app"] == ("ok", f"production {app_client.hub}, staging {hub}")


def test_an_interrupted_swap_is_a_conflict_with_the_command_to_run(app_client: AppClient) -> None:
    """No run can stage until the outcome of the swap is reported."""
    app_client.register()
    hub = app_client.stage(new_hub_name(), run_number=1)
    app_client.swap(hub, run_number=1, outcome="Pending")
    results = run_doctor(app_client)
    assert results.code == ExitCode.CONFLICT
    status, message = results["swap"]
    assert status == "failed"
    assert f"{RUN}1" in message
    assert f"--task-hub {hub}" in message


# --- events and verification ---


@pytest.mark.parametrize("verified", [False, True])
def test_missing_events_are_a_failure_without_verification_and_a_warning_with_it(
    app_client: AppClient, storage: StorageSettings, *, verified: bool
) -> None:
    create_provider_hub(storage, app_client.hub)
    app_client.register(**(VERIFIED if verified else {}))
    results = run_doctor(app_client)
    assert results["events"][0] == ("warning" if verified else "failed")
    assert results["events"][1].startswith(
        f"no event of task hub {app_client.hub} has ever arrived. Check the app's settings"
    )
    assert results.code == (0 if verified else ExitCode.FAILURE)


def test_the_age_of_the_last_event_is_shown(app_client: AppClient) -> None:
    """An old event is no failure, because an app may have nothing to do."""
    app_client.register()
    app_client.publish(event(app_client.hub, time=timestamp(-3 * 86_400)))
    results = run_doctor(app_client)
    assert results["events"] == ("ok", f"the last event of task hub {app_client.hub} is 3 d old")


def test_events_that_the_key_may_not_read_fail_the_check(registered_app: AppClient, proxy: FaultProxy) -> None:
    """The doctor still reports the results of the checks before and after the failed check."""
    inject_fault_at_path(proxy, "/staging", CannedResponse(401))
    results = run_doctor(registered_app, SAFE_DEPLOY_SERVER=proxy.url)
    assert results.code == ExitCode.NOT_ALLOWED
    assert results.failed_checks() == ["key", "events"]


def test_missing_verification_fails_the_check_with_the_command_to_run(app_client: AppClient) -> None:
    """With events alone a slot can stay NotReady for ever."""
    app_client.register()
    app_client.publish(event(app_client.hub))
    results = run_doctor(app_client)
    assert results.code == ExitCode.FAILURE
    assert results.failed_checks() == ["verification"]
    assert results["verification"][1].endswith(
        "To have the server read the app's task hubs, run: safe-deploy register --task-hub HUB "
        "--provider azureStorage --connection SETTING"
    )
    assert "stays active for ever" in results["verification"][1]


def test_required_verification_without_a_provider_fails_the_check(app_client: AppClient) -> None:
    """Without a provider no probe is possible, so no slot can become Ready."""
    app_client.register(policy={"requireVerification": True})
    app_client.publish(event(app_client.hub))
    results = run_doctor(app_client)
    assert results.code == ExitCode.FAILURE
    assert results["verification"][0] == "failed"
    assert "the app's policy requires verification, but no probe" in results["verification"][1]


def test_verification_that_the_policy_does_not_require_is_a_warning(
    app_client: AppClient, storage: StorageSettings
) -> None:
    """If the policy does not require verification, an app keeps its Ready verdicts after its provider is removed."""
    create_provider_hub(storage, app_client.hub, order="Running")
    app_client.register(taskHubs=PROVIDER_CONFIG)
    results = run_doctor(app_client)
    assert results.code == ExitCode.DONE
    assert results["verification"] == (
        "warning",
        (
            "azureStorage, but the policy does not require it, so removing the provider would go unnoticed. Run "
            "safe-deploy register with --require-verification"
        ),
    )


def test_verification_of_a_missing_task_hub_fails_the_check(app_client: AppClient) -> None:
    """The provider is another storage account, or the app has never started."""
    app_client.register(**VERIFIED)
    results = run_doctor(app_client)
    assert results.code == ExitCode.FAILURE
    assert results["verification"][0] == "failed"
    assert f"task hub {app_client.hub} could not be read: " in results["verification"][1]


def test_verification_without_the_setting_of_its_connection_fails_the_check(
    app_client: AppClient, storage: StorageSettings, tmp_path: Path
) -> None:
    """The server has been restarted without the setting that the app's provider names."""
    app_client.register(**VERIFIED)
    with state_server(storage, tmp_path, server_key_entries()) as forgetful:
        results = run_doctor(app_client, SAFE_DEPLOY_SERVER=forgetful.url)
    assert results.code == ExitCode.FAILURE
    assert results["verification"][0] == "failed"
    assert "STATE_TASKHUBS_SHOP" in results["verification"][1]


def test_verification_that_did_not_read_the_task_hub_is_a_warning(
    app_client: AppClient, storage: StorageSettings
) -> None:
    """While events settle, the server does not read the task hub."""
    create_provider_hub(storage, app_client.hub)
    app_client.register(**VERIFIED | {"policy": {"settleSeconds": 60, "requireVerification": True}})
    app_client.publish(event(app_client.hub, status="Completed"))
    results = run_doctor(app_client)
    assert results.code == ExitCode.DONE
    assert results["verification"][0] == "warning"
    assert results["verification"][1].startswith("azureStorage, but the task hub was not read for this verdict: ")
