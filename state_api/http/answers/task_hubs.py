"""A task hub and its instances."""

from pydantic import Field

from state_api.domain.evidence import ProbeResult, ProbeStatus
from state_api.domain.instants import format_instant
from state_api.domain.lifecycle import Instance, RuntimeStatus, Source
from state_api.domain.ownership import Basis, Proof
from state_api.http.answers.shapes import Given, Time, time_or_none
from state_api.http.answers.verdicts import LISTED_ACTIVE, ActiveAnswer, ProbeAnswer
from state_api.services.inspection import TaskHubStatus


class ProofAnswer(Given):
    basis: Basis = Field(description="New: nothing existed under this name. Adopted: an administrator declared it.")
    addresses: list[str] = Field(description="The services that were asked, or for which the task hub was adopted.")
    at: Time

    @classmethod
    def of(cls, proof: Proof | None) -> "ProofAnswer | None":
        if proof is None:
            return None
        return cls(basis=proof.basis, addresses=list(proof.addresses), at=format_instant(proof.at))


class TaskHubAnswer(Given):
    task_hub: str
    app: str | None = Field(description="The app that has claimed the hub.")
    proof: ProofAnswer | None = Field(
        description="What proves that the hub belongs to the app at its provider; Cleanup deletes nothing without it."
    )
    slot: str | None = Field(description="The slot that holds it now.")
    closed: bool = Field(description="Its records are removed, by Cleanup or DeleteTaskHub, and no more are made.")
    events_in_quarantine: bool = Field(
        description="No app has claimed it, and events of it wait in quarantine until one does (TooManyTaskHubs)."
    )
    active_count: int
    active_count_is_lower_bound: bool
    last_event_at: Time | None
    last_recorded_at: Time | None
    active: list[ActiveAnswer] = Field(description=f"The oldest {LISTED_ACTIVE}; ListInstances lists all.")

    @classmethod
    def of(cls, status: TaskHubStatus) -> "TaskHubAnswer":
        activity = status.activity
        return cls(
            task_hub=status.hub.name,
            app=status.hub.app,
            proof=ProofAnswer.of(status.hub.proof),
            slot=status.slot,
            closed=status.hub.closed,
            events_in_quarantine=status.waiting,
            active_count=len(activity.active),
            active_count_is_lower_bound=activity.more,
            last_event_at=time_or_none(activity.last_event_at),
            last_recorded_at=time_or_none(activity.last_recorded_at),
            active=[ActiveAnswer.of(active) for active in activity.active[:LISTED_ACTIVE]],
        )


class VersionAnswer(Given):
    version: str | None = Field(description="The orchestration version; null for instances without one.")
    active_count: int
    oldest_started_at: Time


class VersionsAnswer(Given):
    task_hub: str
    complete: bool = Field(description="Whether the whole task hub was read; if not, there may be more.")
    versions: list[VersionAnswer]
    probe: ProbeAnswer

    @classmethod
    def of(cls, hub: str, probe: ProbeResult) -> "VersionsAnswer":
        shown = ProbeAnswer.of(probe)
        assert shown is not None, "there is a probe"
        return cls(
            task_hub=hub,
            complete=probe.status is ProbeStatus.COMPLETE,
            versions=[
                VersionAnswer(
                    version=one.version,
                    active_count=one.active,
                    oldest_started_at=format_instant(one.oldest_started_at),
                )
                for one in probe.versions
            ],
            probe=shown,
        )


class InstanceAnswer(Given):
    instance_id: str
    function_name: str
    active: bool
    runtime_status: RuntimeStatus
    started_at: Time | None
    finished_at: Time | None
    outcome: RuntimeStatus | None
    reason: str | None = Field(
        description="Why it failed or was terminated, cut to one line. Null for readers: it may hold data of the app."
    )
    last_event_at: Time
    source: Source

    @classmethod
    def of(cls, instance: Instance, *, with_reason: bool) -> "InstanceAnswer":
        started, finished = instance.started, instance.finished
        return cls(
            instance_id=instance.instance_id,
            function_name=instance.function_name,
            active=instance.active,
            runtime_status=instance.runtime_status,
            started_at=time_or_none(started.at if started else None),
            finished_at=time_or_none(finished.at if finished else None),
            outcome=finished.outcome if finished else None,
            reason=finished.reason if finished and with_reason else None,
            last_event_at=format_instant(instance.last_event_at),
            source=instance.source,
        )


class InstancesAnswer(Given):
    task_hub: str
    instances: list[InstanceAnswer]
    continuation_token: str | None
