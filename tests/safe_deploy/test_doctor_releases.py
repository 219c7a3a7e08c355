"""`safe-deploy doctor` for apps with releases side by side, against a real server with keys and the fake `az`."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from safe_deploy.client import PipelineCaller, StateServerClient
from safe_deploy.diagnostics.checks import run_checks
from safe_deploy.diagnostics.keys import KeyPurpose
from safe_deploy.diagnostics.options import CheckOptions
from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import new_hub_name
from tests.durable_app.host_processes import KEY
from tests.pipelines.fake_cloud import FakeAzure
from tests.platform.event_grid import run_event_grid
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.doctor_runner import VERIFIED, CheckResults, create_provider_hub, run_doctor
from tests.safe_deploy.fault_proxy import CannedResponse, FaultProxy, run_fault_proxy
from tests.safe_deploy.in_process import run_in_process
from tests.safe_deploy.processes import KEYS


class SideBySideApp:
    """An app with two releases. The server reads their task hubs, which exist."""

    def __init__(self, app_client: AppClient, storage: StorageSettings) -> None:
        """Register an app with two releases, whose task hubs exist at the provider."""
        self.client = app_client
        self.task_hubs = {version: new_hub_name() for version in ("1.4.0", "1.5.0")}
        app_client.request_json("PUT", "", {"model": "sideBySide", **VERIFIED})
        for version, hub in self.task_hubs.items():
            release = {"version": version, "taskHub": hub, "address": self.address(version), "takeOver": True}
            app_client.request_json("POST", "/releases", release | {"reason": "the test deploys both"})
            create_provider_hub(storage, hub)

    def address(self, version: str) -> str:
        """The address of the release with this version."""
        return f"https://{self.function_app(version)}.azurewebsites.net"

    def function_app(self, version: str) -> str:
        """The name of the Function App of the release with this version."""
        return f"{self.client.app}-{version.replace('.', '')}"

    def promote(self, version: str) -> None:
        """Route all new visitors to this release."""
        self.client.request_json("PUT", "/routing", {"active": version})

    def acknowledge(self, router: str) -> None:
        """Ask for the document, as a router does that routes by the last one."""
        headers = {"x-functions-key": KEYS["admin"]}
        url = f"{self.client.url}/api/apps/{self.client.app}/routing"
        etag = httpx.get(url, headers=headers, timeout=60).headers["etag"]
        again = httpx.get(url, params={"router": router}, headers=headers | {"If-None-Match": etag}, timeout=60)
        assert again.status_code == 304

    def set_function_apps(
        self, fake_azure: FakeAzure, task_hubs: Mapping[str, str | None], **other_settings: str
    ) -> None:
        """Set the task hub in the setting of each release's Function App, by version, and the other settings of all."""
        apps = {}
        for version, hub in task_hubs.items():
            settings = other_settings | ({"TASK_HUB": hub} if hub else {})
            slots = {"production": {"settings": settings}}
            apps[self.function_app(version)] = {"resourceGroup": RESOURCE_GROUP, "slots": slots}
        fake_azure.reset(apps)

    def status_url(self, origin: str, version: str, **parameters: str) -> str:
        """The status URL of an instance of this release, as the SDK builds it for this origin."""
        query = "".join(f"&{name}={value}" for name, value in parameters.items())
        path = "/runtime/webhooks/durabletask/instances/order-1"
        return f"{origin}{path}?taskHub={self.task_hubs[version]}&connection=Storage{query}"


@pytest.fixture
def side_by_side(app_client: AppClient, storage: StorageSettings) -> SideBySideApp:
    """Release 1.5.0 is active, and the router `envoy` routes by it."""
    app = SideBySideApp(app_client, storage)
    app.promote("1.5.0")
    app.acknowledge("envoy")
    return app


def run_checks_at(app: SideBySideApp, now: datetime) -> dict[str, tuple[str, str]]:
    """Status and message of each check at this time."""
    options = CheckOptions(
        purpose=KeyPurpose.READ,
        slot="staging",
        deployment_slots=None,
        function_apps=None,
        task_hub_setting="TASK_HUB",
        status_url=None,
        now=now,
    )
    client = app.client
    with StateServerClient(
        client.url, client.app, key=KEYS["reader"], caller=PipelineCaller(), report=lambda _: None
    ) as server:
        return {result.check: (result.status.value, result.message) for result in run_checks(server, options)}


def test_every_check_passes_on_a_complete_set_up(
    side_by_side: SideBySideApp, azure_on_path: FakeAzure, proxy: FaultProxy
) -> None:
    app, hubs = side_by_side, side_by_side.task_hubs
    app.client.publish(event(hubs["1.5.0"], status="Completed"))
    app.set_function_apps(azure_on_path, hubs)
    proxy.always_inject(CannedResponse(410))
    results = run_doctor(
        app.client, "--resource-group", RESOURCE_GROUP, "--status-url", app.status_url(proxy.url, "1.5.0")
    )
    assert (results.code, results.err) == (ExitCode.DONE, "")
    assert {check: status for check, (status, _) in results.items() if status != "ok"} == {
        "host.json": "unknown",
        "topic: release 1.5.0": "warning",
        "extension": "unknown",
    }
    assert results["app"][1] == "releases side by side; 1.5.0 gets 100 % of the requests"
    assert results["release 1.4.0"][1] == f"Staged, task hub {hubs['1.4.0']}, {app.address('1.4.0')}"
    assert results["release 1.5.0"][1].startswith("Serving, ")
    assert results["Azure: 1.5.0"][1] == f"{app.function_app('1.5.0')} has {hubs['1.5.0']}, as on the server"
    assert results["router envoy"][1].endswith(", the last one")
    assert results["status URLs"][1] == f"the app returns the router's name, {proxy.url}"
    assert results["verification"][1] == "azureStorage, and the policy requires it"


def test_doctor_changes_nothing_of_releases(side_by_side: SideBySideApp) -> None:
    client = side_by_side.client
    before = client.request_json("GET"), client.request_json("GET", "/releases"), client.history()
    for role in KEYS:
        run_doctor(client, "--for", KeyPurpose.ADMINISTER, role=role)
    assert (client.request_json("GET"), client.request_json("GET", "/releases"), client.history()) == before


READING = ["GetApp", "ListReleases", "GetReleaseStatus", "GetHistory", "GetTaskHub"]
DEPLOYING = ["PostRelease", "DeleteRelease", "PutRouting", "Cleanup"]


@pytest.mark.parametrize(
    ("role", "purpose", "refused"),
    [
        ("reader", "read", []),
        ("reader", "deploy", DEPLOYING),
        ("reader", "administer", [*DEPLOYING, "PutApp", "PostWaiver", "ForgetRouter"]),
        ("deployer", "deploy", []),
        ("deployer", "administer", ["PutApp", "ForgetRouter"]),
        ("admin", "administer", []),
    ],
)
def test_operations_on_releases_that_a_key_does_not_permit_are_named(
    side_by_side: SideBySideApp, role: str, purpose: str, refused: list[str]
) -> None:
    results = run_doctor(side_by_side.client, "--for", purpose, role=role)
    if refused:
        assert results["key"][0] == "failed"
        assert f"it does not permit {', '.join(refused)}, which" in results["key"][1]
    else:
        assert results["key"] == ("ok", f"it permits all operations that --for {purpose} needs")


def test_an_app_without_an_active_release_fails_the_check(app_client: AppClient, storage: StorageSettings) -> None:
    results = run_doctor(SideBySideApp(app_client, storage).client)
    assert results.failed_checks() == ["app"]
    assert "routers answer 503" in results["app"][1]
    assert "events" not in results


def test_a_removal_that_is_not_complete_is_a_warning(side_by_side: SideBySideApp) -> None:
    client = side_by_side.client
    client.request_json("DELETE", "/releases/1.4.0?outcome=Pending")
    status, message = run_doctor(client)["release 1.4.0"]
    assert status == "warning"
    assert message.startswith("its removal was begun by test at ")


# --- routers ---


def test_an_app_whose_routers_do_not_acknowledge_is_a_warning(app_client: AppClient, storage: StorageSettings) -> None:
    app = SideBySideApp(app_client, storage)
    app.promote("1.5.0")
    assert run_doctor(app.client)["routers"][0] == "warning"


def test_a_router_that_is_behind_fails_the_check_after_a_minute(side_by_side: SideBySideApp) -> None:
    side_by_side.promote("1.4.0")
    now = datetime.now(UTC)
    results = {seconds: run_checks_at(side_by_side, now + timedelta(seconds=seconds)) for seconds in (5, 90)}
    assert [results[seconds]["router envoy"][0] for seconds in (5, 90)] == ["warning", "failed"]
    assert "ForgetRouter" in results[90]["router envoy"][1]


def test_a_router_that_has_not_asked_for_long_fails_the_check(side_by_side: SideBySideApp) -> None:
    status, message = run_checks_at(side_by_side, datetime.now(UTC) + timedelta(hours=3))["router envoy"]
    assert (status, message.partition(".")[0]) == ("failed", "has not asked for 3 h")


# --- Azure ---


def test_a_function_app_with_the_task_hub_of_another_release_is_a_conflict(
    side_by_side: SideBySideApp, azure_on_path: FakeAzure
) -> None:
    app, hubs = side_by_side, side_by_side.task_hubs
    app.set_function_apps(azure_on_path, {"1.4.0": None, "1.5.0": hubs["1.4.0"]})
    results = run_doctor(app.client, "--resource-group", RESOURCE_GROUP)
    assert results.code == ExitCode.CONFLICT
    assert results.failed_checks() == ["Azure: 1.4.0", "Azure: 1.5.0"]
    assert f"{app.function_app('1.4.0')} has no task hub in its setting TASK_HUB" in results["Azure: 1.4.0"][1]
    assert (
        f"has {hubs['1.4.0']} in its setting TASK_HUB, but the server has {hubs['1.5.0']}" in results["Azure: 1.5.0"][1]
    )


def test_the_events_of_the_active_release_are_followed(side_by_side: SideBySideApp, azure_on_path: FakeAzure) -> None:
    app = side_by_side
    with run_event_grid(f"{app.client.url}/api/events?code={KEYS['publisher']}") as grid:
        settings = {"LIFECYCLE_TOPIC_ENDPOINT": grid.topic.url, "LIFECYCLE_TOPIC_KEY": KEY}
        app.set_function_apps(azure_on_path, app.task_hubs, **settings)
        results = run_doctor(app.client, "--resource-group", RESOURCE_GROUP)
    assert results["topic: release 1.5.0"][0] == "ok"
    assert results["event subscription"][0] == "unknown", "az sees no topic"
    assert results["test event"][1].startswith(f"an event of task hub {app.task_hubs['1.5.0']} arrived ")


def test_a_release_without_a_function_app_fails_its_check_alone(
    side_by_side: SideBySideApp, azure_on_path: FakeAzure
) -> None:
    app = side_by_side
    app.set_function_apps(azure_on_path, {"1.5.0": app.task_hubs["1.5.0"]})
    results = run_doctor(app.client, "--resource-group", RESOURCE_GROUP)
    assert results.failed_checks() == ["Azure: 1.4.0"]
    assert results["Azure: 1.5.0"][0] == "ok"


def test_functions_that_run_in_a_release_without_traffic_or_not_in_the_active_one_are_a_conflict(
    side_by_side: SideBySideApp, azure_on_path: FakeAzure
) -> None:
    """The policy names functions that start work by themselves."""
    app = side_by_side
    app.client.request_json("PUT", "", {"policy": {"quiesceFunctions": ["Nightly", "Import"]}})
    disabled = {"AzureWebJobs.Nightly.Disabled": "true"}
    app.set_function_apps(azure_on_path, app.task_hubs, **disabled)
    results = run_doctor(app.client, "--resource-group", RESOURCE_GROUP)
    assert results.code == ExitCode.CONFLICT
    assert results["functions: 1.4.0"][1].startswith(
        "release 1.4.0 is not active and runs Import. Run safe-deploy quiesce --version 1.4.0 --functions Import "
    )
    assert results["functions: 1.5.0"][1].startswith(
        "release 1.5.0 is active and does not run Nightly. Run safe-deploy unquiesce --version 1.5.0 "
    )


# --- status URLs ---


def check_url(app: SideBySideApp, url: str) -> tuple[CheckResults, tuple[str, str]]:
    """Run doctor for a status URL. Returns all results, and status and message of the check of the URL."""
    results = run_doctor(app.client, "--status-url", url)
    return results, results["status URLs"]


def test_a_url_with_the_releases_own_name_is_a_warning(side_by_side: SideBySideApp) -> None:
    """Over http too, because azure-functions-durable 1 sometimes builds it so in Linux."""
    for address in (side_by_side.address("1.5.0"), side_by_side.address("1.5.0").replace("https", "http")):
        results, (status, message) = check_url(side_by_side, side_by_side.status_url(address, "1.5.0"))
        assert (results.code, status) == (ExitCode.DONE, "warning")
        assert f"the name of release 1.5.0 itself, {address}, so the URL leads past the router" in message


def test_a_url_of_one_release_with_the_task_hub_of_another_is_a_conflict(side_by_side: SideBySideApp) -> None:
    """Both Function Apps have the same task hub in their settings."""
    url = side_by_side.status_url(side_by_side.address("1.5.0"), "1.4.0")
    results, (status, message) = check_url(side_by_side, url)
    assert (results.code, status) == (ExitCode.CONFLICT, "failed")
    assert "is registered for release 1.4.0" in message


def test_a_url_whose_release_is_unknown_or_removed_is_a_conflict(side_by_side: SideBySideApp) -> None:
    url = side_by_side.status_url("https://shop.example", "1.4.0")
    unknown = url.replace(side_by_side.task_hubs["1.4.0"], "unknown")
    assert check_url(side_by_side, unknown)[1] == (
        "failed",
        "routers answer 410 for task hub unknown: no release has this task hub",
    )
    for outcome in ("Pending", "Done"):
        side_by_side.client.request_json("DELETE", f"/releases/1.4.0?outcome={outcome}")
    results, (_, message) = check_url(side_by_side, url)
    assert results.code == ExitCode.CONFLICT
    assert message.endswith(": release 1.4.0 was removed")


def test_a_url_with_a_name_that_is_no_routers_fails_the_check(side_by_side: SideBySideApp, proxy: FaultProxy) -> None:
    proxy.always_inject(CannedResponse(401))
    _, (status, message) = check_url(side_by_side, side_by_side.status_url(proxy.url, "1.5.0"))
    assert status == "failed"
    assert "it answers 401 for a task hub that no release has, where a router answers 410" in message
    with run_fault_proxy() as closed_proxy:
        url = side_by_side.status_url(closed_proxy.url, "1.5.0")
    _, (status, message) = check_url(side_by_side, url)
    assert (status, message.endswith("cannot be reached: ConnectError")) == ("failed", True)


def test_without_a_url_a_warning_names_the_option(side_by_side: SideBySideApp) -> None:
    status, message = run_doctor(side_by_side.client)["status URLs"]
    assert (status, "--status-url" in message) == ("warning", True)


def test_the_key_in_a_url_is_warned_of_and_never_printed(side_by_side: SideBySideApp) -> None:
    url = side_by_side.status_url(side_by_side.address("1.5.0"), "1.5.0", code="key-of-the-management-api")
    result = run_in_process(
        ["doctor", "--output", "json", "--status-url", url], side_by_side.client.build_environment("deployer")
    )
    assert "the URL of --status-url was given with its code" in result.err
    assert "key-of-the-management-api" not in result.out + result.err


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example/api/orders/1?code=secret-0",
        "https://shop.example/runtime/webhooks/durabletask/instances/1?code=secret-0",
        "https://shop.example/runtime/webhooks/durabletask/orchestrators/A?taskHub=shop150&code=secret-0",
        "/runtime/webhooks/durabletask/instances/1?taskHub=shop150&code=secret-0",
        "https://[shop/?code=secret-0",
    ],
)
def test_other_urls_are_refused_without_being_printed(side_by_side: SideBySideApp, url: str) -> None:
    result = side_by_side.client.run_cli("doctor", "--status-url", url)
    assert result.code == ExitCode.USAGE
    assert "secret-0" not in result.stderr
