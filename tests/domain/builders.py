"""Builders of domain values, with defaults, so that a test names only what it is about.

Times are in seconds after a fixed noon."""

from dataclasses import replace

from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.readiness.evidence import (
    ActiveInstance,
    Evidence,
    InstanceActivity,
    OpenDeployment,
    OpenSwap,
    ProbeResult,
    ProbeStatus,
)
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.releases.apps import App, Caller, ProviderConfig, RetiredHub, Slot
from state_api.domain.task_hubs.lifecycle import EvidenceSource, LifecycleEvent, RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance

NOON = parse_instant("2026-11-20T12:00:00Z")
AZURE_STORAGE = "azureStorage"
PROVIDER_CONFIG = ProviderConfig(AZURE_STORAGE, "STATE_TASKHUBS_SHOP")

RUN_7_URL = "https://ci.example/runs/7"
RUN_8_URL = "https://ci.example/runs/8"
ANNA = Caller("anna", RUN_7_URL)
BEN = Caller("ben", RUN_8_URL)
CALLER_WITHOUT_RUN = Caller("carla")


def noon_plus(offset_seconds: float = 0) -> Instant:
    """The instant `offset_seconds` seconds after noon."""
    return Instant(NOON + seconds(offset_seconds))


def build_lifecycle_event(
    status: RuntimeStatus = RuntimeStatus.RUNNING,
    occurred_at: Instant = NOON,
    instance_id: str = "order-1",
    function_name: str = "ProcessOrder",
    reason: str = "",
) -> LifecycleEvent:
    """An event of an instance on task hub v41. By default, it reports at noon that order-1 is running."""
    return LifecycleEvent("v41", instance_id, function_name, status, reason, occurred_at)


def build_active_instance(
    instance_id: str = "order-1", function_name: str = "ProcessOrder", since: float = 0
) -> ActiveInstance:
    """An instance that has been running for `-since` seconds at noon."""
    return ActiveInstance(
        instance_id, function_name, RuntimeStatus.RUNNING, noon_plus(since), noon_plus(since), EvidenceSource.EVENT
    )


def build_evidence(task_hub: str | None = "v41", activity: InstanceActivity | None = None) -> Evidence:
    """Evidence from events alone. By default, the events report no activity."""
    return Evidence(task_hub, activity or InstanceActivity())


def build_probe_result(
    *active: ActiveInstance,
    status: ProbeStatus = ProbeStatus.COMPLETE,
    began: float = -10,
    scanned: int = 0,
    message: str = "",
    ended: float | None = None,
    read_seconds: int = 0,
    unlisted_count: int = 0,
    retry_after_seconds: int | None = None,
) -> ProbeResult:
    """The result of a probe of Azure Storage that found these active instances.

    `began` and `ended` are in seconds after noon."""
    return ProbeResult(
        status,
        AZURE_STORAGE,
        noon_plus(began),
        active,
        scanned,
        message,
        ended_at=None if ended is None else noon_plus(ended),
        read_seconds=read_seconds,
        unlisted_count=unlisted_count,
        retry_after_seconds=retry_after_seconds,
    )


def build_evidence_with_probe(result: ProbeResult | None, activity: InstanceActivity | None = None) -> Evidence:
    """Evidence from events and a configured probe. `result` is None while the probe has no result."""
    return replace(build_evidence(activity=activity), provider=AZURE_STORAGE, probe=result)


def build_observed_instance(
    instance_id: str = "order-1",
    function_name: str = "ProcessOrder",
    status: RuntimeStatus = RuntimeStatus.RUNNING,
    *,
    created: float = -3600,
    updated: float = -60,
    version: str | None = None,
) -> ObservedInstance:
    """An instance as a probe observes it. By default, it was created an hour and written a minute before noon."""
    return ObservedInstance(
        instance_id, function_name, version, status, noon_plus(created), noon_plus(updated), f"written {updated}"
    )


def build_waiver(instance_id: str = "order-1", task_hub: str = "v41", expires: float = 3600) -> Waiver:
    """A waiver that was added at noon. `expires`: seconds after noon."""
    return Waiver(task_hub, instance_id, "stuck since the outage", "anna", noon_plus(), noon_plus(expires))


def build_open_deployment(run_url: str | None = RUN_8_URL, since: float = -120) -> OpenDeployment:
    """A deployment of v42 by Ben, open since `since` seconds after noon."""
    return OpenDeployment("v42", "ben", run_url, noon_plus(since))


def build_open_swap(run_url: str | None = RUN_7_URL, since: float = -180) -> OpenSwap:
    """A pending swap of v42 by Anna, begun `since` seconds after noon."""
    return OpenSwap("v42", "anna", run_url, noon_plus(since))


def build_ready_verdict() -> Verdict:
    """The verdict on a task hub without activity."""
    return assess_readiness(build_evidence(), Policy(), noon_plus())


def build_not_ready_verdict(task_hub: str = "v41") -> Verdict:
    """The verdict on a hub with one active instance."""
    return assess_readiness(
        build_evidence(task_hub, InstanceActivity(active=(build_active_instance(since=-720),))), Policy(), noon_plus()
    )


def build_slot(task_hub: str, version: str | None = None, since: float = -3600, *, promoted: bool = False) -> Slot:
    """A slot that has held this task hub since `since` seconds after noon."""
    return Slot(task_hub, version, noon_plus(since), promoted)


def build_production_slot(task_hub: str = "v41", version: str | None = "1.4.0") -> Slot:
    """A slot whose task hub counts as promoted, as that of production does."""
    return build_slot(task_hub, version, promoted=True)


def build_retired_hub(task_hub: str = "v40", hours_ago: float = 1) -> RetiredHub:
    """A task hub that was retired this many hours before noon."""
    return RetiredHub(task_hub, None, noon_plus(-3600 * hours_ago))


def build_app(
    production: Slot | None = None,
    staging: Slot | None = None,
    *,
    more_slots: dict[str, Slot | None] | None = None,
    policy: Policy | None = None,
    retired: tuple[RetiredHub, ...] = (),
    provider_config: ProviderConfig | None = None,
    waivers: tuple[Waiver, ...] = (),
) -> App:
    """An app at revision 3. `more_slots`: its slots besides production and staging."""
    return App(
        "shop",
        slots={"production": production, "staging": staging, **(more_slots or {})},
        policy=policy or Policy(),
        provider_config=provider_config,
        retired=retired,
        waivers=waivers,
        revision=3,
    )
