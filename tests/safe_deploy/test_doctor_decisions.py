"""What `safe-deploy doctor` decides from what it has read, without a server and without Azure."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_deploy.azure_cli import AzureCli
from safe_deploy.azure_state_server import AzureStateServer
from safe_deploy.diagnostics.event_delivery import (
    SLOW_SECONDS,
    Credential,
    CredentialKind,
    Publication,
    assess_arrival,
    assess_publication,
    build_event,
    create_check_id,
)
from safe_deploy.diagnostics.event_settings import (
    TopicSource,
    find_endpoint_problem,
    is_azure_endpoint,
    parse_topic_settings,
)
from safe_deploy.diagnostics.evidence import EvidenceHints, check_evidence
from safe_deploy.diagnostics.extension import check_terminated
from safe_deploy.diagnostics.host_json import OVERRIDE_NAMES, HostJson, assess_host_json, read_host_json
from safe_deploy.diagnostics.repairs import repair_results
from safe_deploy.diagnostics.results import CheckResult, CheckStatus, Repair
from safe_deploy.diagnostics.roles import ROLES
from safe_deploy.diagnostics.slot_status_urls import assess_slot_status_url
from safe_deploy.diagnostics.status_urls import StatusUrl
from safe_deploy.errors import CommandError, UsageError
from safe_deploy.slot_task_hubs import RecordedSlots
from state_api.domain.instants import instant_from
from state_api.domain.task_hubs.delivery_checks import find_check_id
from state_api.services.event_parser import parse_event
from tests.pipelines.fake_az_identities import storage_account_id
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.doctor_azure import SERVER_APP, SERVER_GROUP, SERVER_IDENTITY

NOW = datetime(2026, 11, 27, 19, 0, 0, 123456, tzinfo=UTC)
SECRET = "a-secret-key"


# --- the test event ---


def test_the_server_knows_the_event_for_a_delivery_check() -> None:
    check_id = create_check_id()
    parsed = parse_event(build_event("v41", check_id, NOW), instant_from(NOW))
    assert (parsed.task_hub, parsed.occurred_at) == ("v41", instant_from(NOW))
    assert find_check_id(parsed.instance_id) == check_id


@given(status=st.one_of(st.none(), st.integers(100, 599)), kind=st.sampled_from(CredentialKind))
def test_an_event_counts_as_published_only_if_the_topic_said_so(status: int | None, kind: CredentialKind) -> None:
    """No message and no `repr` shows the credential."""
    credential = Credential(kind, SECRET, "LIFECYCLE_TOPIC_KEY")
    result = assess_publication(Publication(status, "ConnectError"), host="topic.example", credential=credential)
    assert (result is None) is (status in (200, 202, 204))
    assert SECRET not in f"{result} {credential}"


@pytest.mark.parametrize(
    ("seconds", "status"),
    [(0.0, "ok"), (SLOW_SECONDS - 0.1, "ok"), (SLOW_SECONDS, "warning"), (59.0, "warning"), (None, "failed")],
)
def test_an_event_that_arrives_late_is_a_warning(seconds: float | None, status: str) -> None:
    assert assess_arrival(seconds, host="topic.example", task_hub="v41").status == status


def test_a_403_for_the_identity_of_az_names_its_role() -> None:
    credential = Credential(CredentialKind.TOKEN, SECRET)
    result = assess_publication(Publication(403), host="topic.example", credential=credential)
    assert result is not None
    assert "EventGrid Data Sender" in result.message


@given(endpoint=st.text(max_size=60))
def test_a_text_that_is_no_url_is_never_taken_for_an_endpoint(endpoint: str) -> None:
    problem = find_endpoint_problem(endpoint)
    assert problem is not None or re.match(r"(?i)https?://[^/]", endpoint)


@pytest.mark.parametrize(
    ("endpoint", "is_azure"),
    [
        ("https://shop.westeurope-1.eventgrid.azure.net/api/events", True),
        ("https://shop.usgovvirginia-1.eventgrid.azure.us/api/events", True),
        ("http://shop.westeurope-1.eventgrid.azure.net/api/events", False),
        ("https://eventgrid.azure.net.example/api/events", False),
        ("https://shop.example/.eventgrid.azure.net", False),
        ("https://shop.example?x=.eventgrid.azure.net", False),
    ],
)
def test_only_topics_of_azure_count_as_such(endpoint: str, is_azure: bool) -> None:
    assert is_azure_endpoint(endpoint) is is_azure


def test_an_identity_takes_precedence_over_a_key() -> None:
    settings = {
        "EventGrid__topicEndpoint": "https://a.example",
        "LIFECYCLE_TOPIC_ENDPOINT": "https://b.example",
        "LIFECYCLE_TOPIC_KEY": SECRET,
    }
    topic = parse_topic_settings(TopicSource(), settings)
    assert (topic.endpoint, topic.uses_identity, topic.is_complete) == ("https://a.example", True, True)
    assert SECRET not in repr(parse_topic_settings(TopicSource(), settings | {"EventGrid__topicEndpoint": ""}))


# --- host.json ---


def host_json(**members: Any) -> HostJson:
    """A host.json as docs/azure.md writes it, with other members of `eventGrid`; those that are None are left out."""
    event_grid: dict[str, Any] = {
        "topicEndpoint": "%LIFECYCLE_TOPIC_ENDPOINT%",
        "keySettingName": "LIFECYCLE_TOPIC_KEY",
        "publishRetryCount": 2,
        "publishRetryInterval": "00:00:00.500",
        "publishRetryHttpStatus": [503],
    }
    present = {name: value for name, value in (event_grid | members).items() if value is not None}
    return HostJson(file=Path("app/host.json"), hub_name="%TASK_HUB%", event_grid=present)


@pytest.mark.parametrize(
    ("host", "status", "text"),
    [
        (host_json(), "ok", "publishes with 2 retries"),
        (HostJson(), "unknown", "Add --project"),
        (host_json(publishRetryCount=None), "warning", "publishRetryCount is 0"),
        (host_json(publishRetryInterval="00:00:10"), "warning", "for 20 s at every event"),
        (host_json(publishRetryInterval=None), "warning", "2 retries every 300 s"),
        (host_json(publishRetryInterval="soon"), "warning", "is not a time such as"),
        (host_json(publishRetryHttpStatus=None), "warning", "without publishRetryHttpStatus"),
        (host_json(topicEndpoint=None), "failed", "has no topicEndpoint"),
        (HostJson(file=Path("host.json"), hub_name="%TASK_HUB%"), "failed", "has no notifications.eventGrid"),
        (HostJson(file=Path("host.json"), event_grid=host_json().event_grid), "failed", "hubName is missing"),
        (HostJson(file=Path("host.json"), hub_name="v41", event_grid=host_json().event_grid), "failed", "is v41"),
    ],
)
def test_host_json_is_assessed(host: HostJson, status: str, text: str) -> None:
    (result,) = assess_host_json(host, task_hub_setting="TASK_HUB")
    assert (result.status, text in result.message) == (status, True), result.message


def test_app_settings_override_host_json() -> None:
    values = dict(zip(OVERRIDE_NAMES, ("%OTHER%", "OTHER_KEY", "0", "00:00:01"), strict=True))
    host = host_json().with_overrides(values)
    assert host.topic_source == TopicSource(endpoint="%OTHER%", key_setting="OTHER_KEY")
    (result,) = assess_host_json(host, task_hub_setting="TASK_HUB")
    assert result.status is CheckStatus.WARNING
    assert host_json().with_overrides({"OTHER": "1"}) == host_json()


def test_a_task_hub_name_in_an_overriding_setting_needs_no_hub_name_in_host_json() -> None:
    host = HostJson(file=Path("host.json"), event_grid=host_json().event_grid)
    (result,) = assess_host_json(host, task_hub_setting="AzureFunctionsJobHost__extensions__durableTask__hubName")
    assert result.status is CheckStatus.OK


@pytest.mark.parametrize("text", ["[]", '{"version": "2.0"}', '{"extensions": {"durableTask": 1}}', "\ufeff{}"])
def test_a_host_json_without_the_members_fails_the_check(text: str, tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text(text, encoding="utf-8")
    (result,) = assess_host_json(read_host_json(tmp_path), task_hub_setting="TASK_HUB")
    assert result.status is CheckStatus.FAILED


@pytest.mark.parametrize("text", [b"{", b"", b'{"extensions": tru}', b"\xff\xfe"])
def test_a_host_json_that_the_host_could_not_read_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "host.json").write_bytes(text)
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        read_host_json(tmp_path)


def test_the_host_json_of_another_app_in_the_current_folder_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "host.json").write_text('{"version": "2.0", "extensions": {"http": {}}}')
    monkeypatch.chdir(tmp_path)
    assert read_host_json(None) == HostJson()


# --- Terminated ---


def check_extension_of(host: HostJson, *terminated: dict[str, str]) -> CheckResult:
    (result,) = check_terminated(host, lambda: terminated, is_verified=True)
    return result


BY_EVENT = {"instanceId": "order-1", "source": "event"}
BY_PROBE = {"instanceId": "order-2", "source": "probe"}


@pytest.mark.parametrize(
    ("host", "terminated", "status"),
    [
        (HostJson(), [], "unknown"),
        (HostJson(), [BY_EVENT], "ok"),
        (HostJson(), [BY_PROBE], "warning"),
        (HostJson(), [BY_PROBE, BY_EVENT], "ok"),
        (host_json(publishEventTypes=["Started", "terminated"]), [BY_EVENT], "ok"),
        (host_json(publishEventTypes=["Started", "Completed"]), [BY_EVENT], "warning"),
        (host_json(publishEventTypes=[]), [], "unknown"),
    ],
)
def test_an_extension_publishes_terminated_if_the_server_has_received_it(
    host: HostJson, terminated: list[dict[str, str]], status: str
) -> None:
    assert check_extension_of(host, *terminated).status == status


@pytest.mark.parametrize(("version", "status"), [("3.19.0", "ok"), ("3.20.1-preview", "ok"), ("2.13.0", "unknown")])
def test_the_version_in_a_project_file_is_compared(version: str, status: str, tmp_path: Path) -> None:
    (tmp_path / "App.csproj").write_text(
        f'<PackageReference Include="Microsoft.Azure.WebJobs.Extensions.DurableTask" Version="{version}" />'
    )
    assert check_extension_of(HostJson(file=tmp_path / "host.json")).status == status


# --- status URLs ---


@pytest.mark.parametrize(
    ("origin", "task_hub", "status"),
    [
        ("https://shop.azurewebsites.net", "V41", "ok"),
        ("https://shop.example", "v41", "ok"),
        ("https://shop-staging.azurewebsites.net", "v42", "warning"),
        ("https://shop-staging.azurewebsites.net", "v41", "failed"),
        ("https://shop.azurewebsites.net", "v42", "failed"),
        ("https://gateway.example", "v41", "warning"),
        ("https://shop.azurewebsites.net", "v40", "failed"),
    ],
)
def test_a_status_url_leads_to_the_slot_of_its_task_hub(origin: str, task_hub: str, status: str) -> None:
    recorded = RecordedSlots(app="shop", slot_name="staging", production="v41", slot="v42")
    hosts = {
        "production": frozenset({"shop.azurewebsites.net", "shop.example"}),
        "staging": frozenset({"shop-staging.azurewebsites.net"}),
    }
    assert assess_slot_status_url(StatusUrl(origin, task_hub, has_key=False), recorded, hosts).status == status


# --- roles ---

APP = {"taskHubs": {"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}, "policy": {}}
DENIED = (
    "the storage account of the setting STATE_TASKHUBS_SHOP refuses this server access to its tables "
    "(AuthorizationPermissionMismatch): give the server's identity the role Storage Table Data Reader on that account"
)


def check_verification(state_server: AzureStateServer | None, *, app: dict[str, Any] | None = None) -> CheckResult:
    """The result of the verification if the storage account refuses the server."""
    verdict = {
        "evidence": {"lastEventAt": None},
        "reasons": [{"code": "ProbeDenied", "message": DENIED}],
        "warnings": [{"code": "NewWarning", "message": "something is not covered"}],
        "assurance": "events",
    }
    hints = EvidenceHints("", "")
    results = check_evidence(app or APP, "v41", lambda verify: verdict, hints=hints, now=NOW, state_server=state_server)
    by_name = {result.check: result for result in results}
    assert by_name["warning NewWarning"].message == "something is not covered"
    return by_name["verification"]


@pytest.fixture
def state_server(azure_on_path: FakeAzure) -> AzureStateServer:
    """The server in the fake Azure, which reads task hubs with an identity."""
    settings = {
        "STATE_TASKHUBS_SHOP__tableServiceUri": "https://shopdurable.table.core.windows.net",
        "STATE_TASKHUBS_SHOP__clientId": SERVER_IDENTITY["clientId"],
    }
    azure_on_path.reset(
        {
            SERVER_APP: {
                "resourceGroup": SERVER_GROUP,
                "identity": {"principalId": None, "userAssignedIdentities": {"id": SERVER_IDENTITY}},
                "slots": {"production": {"settings": settings}},
            }
        }
    )
    azure_on_path.update(storageAccounts={"shopdurable": RESOURCE_GROUP})
    return AzureStateServer(AzureCli(), f"https://{SERVER_APP}.azurewebsites.net")


def test_a_server_that_is_refused_gets_its_roles(state_server: AzureStateServer, azure_on_path: FakeAzure) -> None:
    result = check_verification(state_server)
    assert result.repair is not None
    assert "Storage Queue Data Reader" in result.repair.question
    result.repair.run()
    scope = storage_account_id(RESOURCE_GROUP, "shopdurable")
    assert azure_on_path.read("roleAssignments") == [["server-principal", role, scope] for role in ROLES]
    (again,) = result.repair.check_again()
    assert (again.status, "up to ten minutes" in again.message) == (CheckStatus.FAILED, True)


def test_roles_that_cannot_be_given_from_here_are_named_with_the_command(
    state_server: AzureStateServer, azure_on_path: FakeAzure
) -> None:
    assert "With --resource-group, --fix can give them" in check_verification(None).message
    azure_on_path.update(storageAccounts={})
    result = check_verification(state_server)
    assert result.repair is None
    assert "az role assignment create --assignee-object-id PRINCIPAL" in result.message
    azure_on_path.set_fault("identity show", message="Please run 'az login' to setup account.")
    assert "az is not logged in" in check_verification(state_server).message


def test_no_account_is_guessed_from_a_domain_of_its_own(
    state_server: AzureStateServer, azure_on_path: FakeAzure
) -> None:
    """The first part of the domain is the name of an account that has nothing to do with it."""
    apps = azure_on_path.read("apps")
    settings = apps[SERVER_APP]["slots"]["production"]["settings"]
    settings["STATE_TASKHUBS_SHOP__tableServiceUri"] = "https://shopdurable.shop.example"
    azure_on_path.update(apps=apps)
    assert check_verification(state_server).repair is None


def test_another_provider_has_no_roles_of_storage(state_server: AzureStateServer) -> None:
    app = {"taskHubs": {"provider": "scheduler", "connection": "X"}, "policy": {}}
    result = check_verification(state_server, app=app)
    assert (result.repair, result.message) == (None, f"ProbeDenied: {DENIED}")


# --- the loop of repairs ---


class BrokenPart:
    """A part that a check finds broken until it is repaired."""

    def __init__(self, name: str, error: str = "") -> None:
        self.name = name
        self.is_broken = True
        self.repairs = 0
        self._error = error

    def check(self) -> Iterator[CheckResult]:
        if not self.is_broken:
            yield CheckResult(self.name, CheckStatus.OK, "works")
            return
        repair = Repair(f"Repair {self.name}?", self._run, self.check)
        yield CheckResult(self.name, CheckStatus.FAILED, "is broken", repair=repair)

    def _run(self) -> str:
        self.repairs += 1
        if self._error:
            raise CommandError(self._error)
        self.is_broken = False
        return "repaired"


@given(answers=st.lists(st.booleans(), min_size=1, max_size=6))
def test_exactly_what_is_agreed_to_is_repaired(answers: list[bool]) -> None:
    """Each is asked once, and each check has one result."""
    parts = [BrokenPart(str(number)) for number in range(len(answers))]
    questions: list[str] = []

    def confirm(question: str) -> bool:
        questions.append(question)
        return answers[len(questions) - 1]

    all_results = (result for part in parts for result in part.check())
    results = list(repair_results(all_results, confirm=confirm, report=lambda line: None))
    assert questions == [f"Repair {part.name}?" for part in parts]
    assert [result.status is CheckStatus.OK for result in results] == answers
    assert [part.repairs for part in parts] == [int(answer) for answer in answers]


def test_a_check_sees_what_an_earlier_repair_has_changed() -> None:
    first, second = BrokenPart("first"), BrokenPart("second")

    def check_all() -> Iterator[CheckResult]:
        yield from first.check()
        second.is_broken = first.is_broken
        yield from second.check()

    results = list(repair_results(check_all(), confirm=lambda question: True, report=lambda line: None))
    assert [result.status.value for result in results] == ["ok", "ok"]
    assert second.repairs == 0


def test_a_repair_that_fails_leaves_the_result_with_the_reason() -> None:
    part = BrokenPart("part", error="Azure says no")
    (result,) = repair_results(part.check(), confirm=lambda question: True, report=lambda line: None)
    assert (result.message, result.repair) == ("is broken. It could not be repaired: Azure says no", None)
