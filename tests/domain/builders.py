"""Values of the domain with only what a test is about spelt out. Times are seconds after one fixed moment."""

from dataclasses import replace

from state_api.domain.apps import App, Caller, Retired, Slot, TaskHubSource, Transition
from state_api.domain.evidence import (
    ActiveInstance,
    Activity,
    Evidence,
    OpenDeployment,
    OpenSwap,
    ProbeResult,
    ProbeStatus,
)
from state_api.domain.exemptions import Waiver
from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.lifecycle import LifecycleEvent, RuntimeStatus, Source
from state_api.domain.readiness import Policy, Verdict, assess
from state_api.domain.releases import Order, stage
from state_api.domain.sightings import Sighting
from state_api.domain.swaps import begin

NOON = parse_instant("2026-11-20T12:00:00Z")
AZURE_STORAGE = "azureStorage"
SOURCE = TaskHubSource(AZURE_STORAGE, "STATE_TASKHUBS_SHOP")

RUN_7 = "https://ci.example/runs/7"
RUN_8 = "https://ci.example/runs/8"
ANNA = Caller("anna", RUN_7)
BEN = Caller("ben", RUN_8)
NO_RUN = Caller("carla")


def at(offset: float = 0) -> Instant:
    """`offset` seconds after noon."""
    return Instant(NOON + seconds(offset))


def event(
    status: RuntimeStatus = RuntimeStatus.RUNNING,
    occurred_at: Instant = NOON,
    instance_id: str = "order-1",
    function_name: str = "ProcessOrder",
    reason: str = "",
) -> LifecycleEvent:
    return LifecycleEvent("v41", instance_id, function_name, status, reason, occurred_at)


def active(instance_id: str = "order-1", function_name: str = "ProcessOrder", since: float = 0) -> ActiveInstance:
    """An instance that has been running for `-since` seconds at noon."""
    return ActiveInstance(instance_id, function_name, RuntimeStatus.RUNNING, at(since), at(since), Source.EVENT)


def evidence(task_hub: str | None = "v41", activity: Activity | None = None) -> Evidence:
    """What events alone show of a hub; a quiet one unless told."""
    return Evidence(task_hub, activity or Activity())


def probe(
    *found: ActiveInstance,
    status: ProbeStatus = ProbeStatus.COMPLETE,
    began: float = -10,
    scanned: int = 0,
    message: str = "",
    ended: float | None = None,
    taken: int = 0,
    unlisted: int = 0,
    retry_after: int | None = None,
) -> ProbeResult:
    """A probe of Azure Storage, begun ten seconds before noon unless told."""
    return ProbeResult(
        status,
        AZURE_STORAGE,
        at(began),
        found,
        scanned,
        message,
        ended_at=None if ended is None else at(ended),
        took_seconds=taken,
        unlisted=unlisted,
        retry_after=retry_after,
    )


def probed(result: ProbeResult | None, activity: Activity | None = None) -> Evidence:
    """What events and a probe show of a hub; None for a probe that has no result yet."""
    return replace(evidence(activity=activity), provider=AZURE_STORAGE, probe=result)


def sighting(
    instance_id: str = "order-1",
    function_name: str = "ProcessOrder",
    status: RuntimeStatus = RuntimeStatus.RUNNING,
    created: float = -3600,
    updated: float = -60,
    version: str | None = None,
) -> Sighting:
    """An instance as a probe sees it, an hour old at noon and last written a minute before unless told."""
    return Sighting(instance_id, function_name, version, status, at(created), at(updated), f"written {updated}")


def waiver(instance_id: str = "order-1", task_hub: str = "v41", expires: float = 3600) -> Waiver:
    """A waiver that was given at noon and expires after an hour unless told."""
    return Waiver(task_hub, instance_id, "stuck since the outage", "anna", at(), at(expires))


def open_deployment(run_url: str | None = RUN_8, since: float = -120) -> OpenDeployment:
    return OpenDeployment("v42", "ben", run_url, at(since))


def open_swap(run_url: str | None = RUN_7, since: float = -180) -> OpenSwap:
    return OpenSwap("v42", "anna", run_url, at(since))


def ready() -> Verdict:
    return assess(evidence(), Policy(), at())


def not_ready(task_hub: str = "v41") -> Verdict:
    """The verdict on a hub with one active instance."""
    return assess(evidence(task_hub, Activity(active=(active(since=-720),))), Policy(), at())


def slot(task_hub: str, version: str | None = None, since: float = -3600, promoted: bool = False) -> Slot:
    return Slot(task_hub, version, at(since), promoted)


def in_production(task_hub: str = "v41", version: str | None = "1.4.0") -> Slot:
    return slot(task_hub, version, promoted=True)


def retired(task_hub: str = "v40", hours_ago: float = 1) -> Retired:
    return Retired(task_hub, None, at(-3600 * hours_ago))


def shop(
    production: Slot | None = None,
    staging: Slot | None = None,
    *,
    more: dict[str, Slot | None] | None = None,
    policy: Policy | None = None,
    retired: tuple[Retired, ...] = (),
    task_hubs: TaskHubSource | None = None,
    waivers: tuple[Waiver, ...] = (),
) -> App:
    """An app that was registered before; `more` are its slots beyond production and staging."""
    return App(
        "shop",
        slots={"production": production, "staging": staging, **(more or {})},
        policy=policy or Policy(),
        task_hubs=task_hubs,
        retired=retired,
        waivers=waivers,
        revision=3,
    )


def staged(
    app: App, task_hub: str = "v42", caller: Caller = ANNA, now: Instant = NOON, slot: str = "staging"
) -> Transition:
    """A new hub staged over whatever the slot holds, drained."""
    return stage(app, Order(task_hub, "1.5.0", slot), caller, ready(), False, now)


def deploying(
    caller: Caller = ANNA,
    policy: Policy | None = None,
    *,
    more: dict[str, Slot | None] | None = None,
    retired: tuple[Retired, ...] = (),
) -> App:
    """v41 in production; v42 was staged at noon by the caller's run, which has not swapped it yet."""
    return staged(shop(in_production(), policy=policy, more=more, retired=retired), caller=caller).app


def begun(*, more: dict[str, Slot | None] | None = None, retired: tuple[Retired, ...] = ()) -> Transition:
    """A minute after noon Anna's run begins to swap v42, which it staged, with v41."""
    return begin(deploying(more=more, retired=retired), "staging", "v42", False, ANNA, at(60))
