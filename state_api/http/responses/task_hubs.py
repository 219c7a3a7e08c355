"""Responses with a task hub, its instances, and its orchestration versions."""

from pydantic import Field

from state_api.domain.instants import format_instant
from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus
from state_api.domain.task_hubs.delivery_checks import DeliveryCheck
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Instance, RuntimeStatus
from state_api.domain.task_hubs.ownership import OwnershipProof, ProofBasis
from state_api.http.responses.base import ResponseModel, Timestamp, format_optional_instant
from state_api.http.responses.verdicts import MAX_LISTED_INSTANCES, ActiveInstanceResponse, ProbeResponse
from state_api.services.task_hub_queries import TaskHubStatus


class OwnershipProofResponse(ResponseModel):
    basis: ProofBasis = Field(
        description="New: nothing with this name existed at the provider. Adopted: an administrator declared it."
    )
    addresses: list[str] = Field(
        description="The addresses of the services at which the task hub is proven to belong to the app."
    )
    at: Timestamp

    @classmethod
    def of(cls, proof: OwnershipProof | None) -> "OwnershipProofResponse | None":
        """How it is known that the task hub belongs to its app; None if it is not proven."""
        if proof is None:
            return None
        return cls(basis=proof.basis, addresses=list(proof.addresses), at=format_instant(proof.at))


class DeliveryCheckResponse(ResponseModel):
    check_id: str
    published_at: Timestamp = Field(description="By the publisher's clock.")
    recorded_at: Timestamp = Field(description="By the storage's clock.")

    @classmethod
    def of(cls, check: DeliveryCheck) -> "DeliveryCheckResponse":
        """One delivery check."""
        return cls(
            check_id=check.check_id,
            published_at=format_instant(check.published_at),
            recorded_at=format_instant(check.recorded_at),
        )


class TaskHubResponse(ResponseModel):
    task_hub: str
    app: str | None = Field(description="The app that has claimed the task hub.")
    proof: OwnershipProofResponse | None = Field(
        description="The proof that the task hub belongs to the app at its provider. Cleanup deletes nothing else."
    )
    slot: str | None = Field(description="The slot that has the task hub now.")
    release: str | None = Field(description="The version of the release that has the task hub now.")
    closed: bool = Field(
        description="Whether Cleanup or DeleteTaskHub has removed its records. No more events are recorded then."
    )
    events_in_quarantine: bool = Field(
        description="Whether events of the task hub wait in quarantine until an app claims it (TooManyTaskHubs)."
    )
    active_count: int
    active_count_is_lower_bound: bool
    last_event_at: Timestamp | None
    last_recorded_at: Timestamp | None
    active: list[ActiveInstanceResponse] = Field(
        description=f"The oldest {MAX_LISTED_INSTANCES} active instances; ListInstances lists all."
    )
    delivery_checks: list[DeliveryCheckResponse] = Field(
        description="Events of the last hour by which safe-deploy doctor checked whether events arrive, latest first."
    )

    @classmethod
    def of(cls, status: TaskHubStatus) -> "TaskHubResponse":
        """The task hub, who has it, and the first of its active instances."""
        activity = status.activity
        return cls(
            task_hub=status.record.name,
            app=status.record.app,
            proof=OwnershipProofResponse.of(status.record.proof),
            slot=status.holder.name if status.holder is not None and status.holder.kind == "slot" else None,
            release=status.holder.name if status.holder is not None and status.holder.kind == "release" else None,
            closed=status.record.closed,
            events_in_quarantine=status.has_waiting_events,
            active_count=len(activity.active),
            active_count_is_lower_bound=activity.has_more,
            last_event_at=format_optional_instant(activity.last_event_at),
            last_recorded_at=format_optional_instant(activity.last_recorded_at),
            active=[ActiveInstanceResponse.of(active) for active in activity.active[:MAX_LISTED_INSTANCES]],
            delivery_checks=[DeliveryCheckResponse.of(check) for check in status.delivery_checks],
        )


class VersionCountResponse(ResponseModel):
    version: str | None = Field(description="The orchestration version; null for instances without one.")
    active_count: int
    oldest_started_at: Timestamp


class VersionsResponse(ResponseModel):
    task_hub: str
    complete: bool = Field(
        description="Whether the whole task hub was read. If not, there may be more active instances."
    )
    versions: list[VersionCountResponse]
    probe: ProbeResponse

    @classmethod
    def of(cls, task_hub: str, probe: ProbeResult) -> "VersionsResponse":
        """The active instances that a probe counted for each orchestration version."""
        probe_response = ProbeResponse.of(probe)
        assert probe_response is not None, "ProbeResponse.of returns None for None only"
        return cls(
            task_hub=task_hub,
            complete=probe.status is ProbeStatus.COMPLETE,
            versions=[
                VersionCountResponse(
                    version=version_count.version,
                    active_count=version_count.active,
                    oldest_started_at=format_instant(version_count.oldest_started_at),
                )
                for version_count in probe.versions
            ],
            probe=probe_response,
        )


class InstanceResponse(ResponseModel):
    instance_id: str
    function_name: str
    active: bool
    runtime_status: RuntimeStatus
    started_at: Timestamp | None
    finished_at: Timestamp | None
    outcome: RuntimeStatus | None
    reason: str | None = Field(
        description="Why the instance failed or was terminated, as one line. Null for the role reader, because it "
        "can contain data of the app."
    )
    last_event_at: Timestamp
    source: EvidenceSource

    @classmethod
    def of(cls, instance: Instance, *, with_reason: bool) -> "InstanceResponse":
        """One instance. `with_reason`: show the reason of its end, which can contain data of the app."""
        started, finished = instance.started, instance.finished
        return cls(
            instance_id=instance.instance_id,
            function_name=instance.function_name,
            active=instance.active,
            runtime_status=instance.runtime_status,
            started_at=format_optional_instant(started.at if started else None),
            finished_at=format_optional_instant(finished.at if finished else None),
            outcome=finished.outcome if finished else None,
            reason=finished.reason if finished and with_reason else None,
            last_event_at=format_instant(instance.last_event_at),
            source=instance.source,
        )


class InstancesResponse(ResponseModel):
    task_hub: str
    instances: list[InstanceResponse]
    continuation_token: str | None
