"""Mutations of the server in memory, to check that the simulator notices them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from state_api.backends import azure_storage
from state_api.backends.azure_storage import AzureStorageBackend
from state_api.backends.protocols import ObservedPage
from state_api.domain.instants import TICKS_PER_SECOND, Instant, seconds
from state_api.domain.readiness import lookups, plan, verdict
from state_api.domain.readiness.evidence import ActiveInstance, InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.lookups import start_of
from state_api.domain.readiness.messages import MessageEvidence, QueueSnapshot
from state_api.domain.readiness.plan import ProbeOutcome, VerificationMode
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.scans import Scan
from state_api.domain.readiness.validity import is_probe_valid
from state_api.domain.task_hubs import lifecycle, observations
from state_api.domain.task_hubs.lifecycle import Instance, Started
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import ObservedState, observe_state, reconcile_end
from state_api.services import reconciler
from state_api.services.probe_requests import ProbeRequest
from state_api.services.reconciler import Reconciler
from state_api.services.verification import Verifier

Mutation = Callable[[pytest.MonkeyPatch], None]


def single_pass_scan(patch: pytest.MonkeyPatch) -> None:
    """A scan is complete after the first pass, regardless of changes."""
    patch.setattr(Scan, "finish_pass", lambda scan: not scan.cursors)


def missed_starts_not_recorded(patch: pytest.MonkeyPatch) -> None:
    """Active instances that a probe finds are not recorded."""
    patch.setattr(reconciler, "reconcile_start", lambda known, observed, now: None)


def outdated_probe_accepted(patch: pytest.MonkeyPatch) -> None:
    """A probe counts although an event was recorded after it began."""
    patch.setattr(verdict, "is_probe_valid", _is_valid_without_events)
    patch.setattr(plan, "is_probe_valid", _is_valid_without_events)


def outdated_probe_accepted_by_planner_only(patch: pytest.MonkeyPatch) -> None:
    """The planner does not read a task hub again after an event, and the verdict still rejects the old probe."""
    patch.setattr(plan, "is_probe_valid", _is_valid_without_events)


def _is_valid_without_events(
    probe: ProbeResult, activity: InstanceActivity, policy: Policy, now: Instant, *, seen_before: bool = True
) -> bool:
    return is_probe_valid(probe, replace(activity, last_recorded_at=None), policy, now, seen_before=seen_before)


def entities_counted_in_scans(patch: pytest.MonkeyPatch) -> None:
    """Scans count entities as orchestrations."""
    _replace_scan_filter(patch, f"({azure_storage._CHANGED_FILTER} or not ({azure_storage._ENDED_FILTER}))")
    patch.setattr(observations, "is_entity", lambda instance_id: False)


def entities_counted_in_records(patch: pytest.MonkeyPatch) -> None:
    """Records count entities as orchestrations."""
    patch.setattr(lifecycle, "is_entity", lambda instance_id: False)


def unconfirmed_start_taken_as_ended(patch: pytest.MonkeyPatch) -> None:
    """A start that the task hub does not show yet counts as ended."""

    def judged(started: Started, observed: ObservedInstance | None, backend_id: str = "") -> ObservedState:
        known = observe_state(started, observed, backend_id)
        return ObservedState.ENDED if known is ObservedState.UNCONFIRMED else known

    patch.setattr(lookups, "observe_state", judged)


def confirmed_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A confirmation of one start of an instance id counts for all later starts of it."""
    confirm_starts, read_recorded_starts = Reconciler.confirm_starts, Reconciler.read_recorded_starts
    backend_ids: dict[tuple[str, str], str] = {}

    async def confirm_for_ever(
        reconciler: Reconciler,
        request: ProbeRequest,
        starts: Sequence[tuple[Started, ObservedInstance]],
        *,
        observed_at: Instant,
    ) -> None:
        for _, observed in starts:
            if observed.active:
                backend_ids[request.task_hub, observed.instance_id] = request.backend_id
        await confirm_starts(reconciler, request, starts, observed_at=observed_at)

    async def read_all_as_confirmed(
        reconciler: Reconciler, task_hub: str, instances: Sequence[ActiveInstance]
    ) -> Mapping[str, Started]:
        starts = {instance.instance_id: start_of(instance) for instance in instances}
        starts |= await read_recorded_starts(reconciler, task_hub, instances)
        return {
            instance_id: replace(started, confirmed_backend=backend_ids.get((task_hub, instance_id), ""))
            for instance_id, started in starts.items()
        }

    patch.setattr(Reconciler, "confirm_starts", confirm_for_ever)
    patch.setattr(Reconciler, "read_recorded_starts", read_all_as_confirmed)


def never_confirmed(patch: pytest.MonkeyPatch) -> None:
    """Confirmations of starts are forgotten."""

    async def read_nothing(
        reconciler: Reconciler, task_hub: str, instances: Sequence[ActiveInstance]
    ) -> Mapping[str, Started]:
        return {}

    patch.setattr(Reconciler, "read_recorded_starts", read_nothing)


def control_queues_not_read(patch: pytest.MonkeyPatch) -> None:
    """The control queues are not read."""

    async def snapshot(backend: AzureStorageBackend, task_hub: str) -> QueueSnapshot:
        return QueueSnapshot()

    patch.setattr(AzureStorageBackend, "read_queue_snapshot", snapshot)


def first_page_only(patch: pytest.MonkeyPatch) -> None:
    """A scan reads only the first page."""
    _truncate_pages(patch, lambda cursor: True)


def first_page_of_each_range_only(patch: pytest.MonkeyPatch) -> None:
    """A scan that is split into ranges reads only the first page of each."""
    _truncate_pages(patch, lambda cursor: azure_storage._decode_cursor(cursor)[0] is not None)


def _truncate_pages(patch: pytest.MonkeyPatch, cut: Callable[[str], bool]) -> None:
    read = AzureStorageBackend.read_page

    async def read_page(backend: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> ObservedPage:
        whole = await read(backend, task_hub, since, cursor)
        return replace(whole, cursors=()) if cut(cursor) else whole

    patch.setattr(AzureStorageBackend, "read_page", read_page)


def pending_not_scanned(patch: pytest.MonkeyPatch) -> None:
    """Scans do not ask for Pending."""
    _exclude_status(patch, "Pending")


def suspended_not_scanned(patch: pytest.MonkeyPatch) -> None:
    """Scans do not ask for Suspended."""
    _exclude_status(patch, "Suspended")


def continued_as_new_not_scanned(patch: pytest.MonkeyPatch) -> None:
    """Scans do not ask for ContinuedAsNew."""
    _exclude_status(patch, "ContinuedAsNew")


def _exclude_status(patch: pytest.MonkeyPatch, status: str) -> None:
    """Rows of this status that were written during the scan are not returned either."""
    _replace_scan_filter(patch, f"({azure_storage._ACTIVE_OR_CHANGED_FILTER} and RuntimeStatus ne '{status}')")


def _replace_scan_filter(patch: pytest.MonkeyPatch, wanted: str) -> None:
    patch.setattr(azure_storage, "_ACTIVE_OR_CHANGED_FILTER", wanted)
    patch.setattr(azure_storage, "_RANGE_FILTER", f"PartitionKey ge @from and PartitionKey lt @to and {wanted}")
    patch.setattr(azure_storage, "_LAST_RANGE_FILTER", f"PartitionKey ge @from and {wanted}")


def changes_during_scan_ignored(patch: pytest.MonkeyPatch) -> None:
    """Scans do not return rows that changed while they read."""
    patch.setattr(azure_storage, "_CLOCK_SKEW_MARGIN", -seconds(60))


def observed_end_dated_now(patch: pytest.MonkeyPatch) -> None:
    """An observed end is dated at the current time."""

    def placed(instance: Instance, observed: ObservedInstance | None) -> Instance:
        correction = reconcile_end(instance, observed)
        assert correction.finished is not None
        now = Instant(int(time.time() * TICKS_PER_SECOND))
        return replace(correction, finished=replace(correction.finished, at=max(correction.finished.at, now)))

    patch.setattr(lookups, "reconcile_end", placed)


def observed_end_ignored(patch: pytest.MonkeyPatch) -> None:
    """An observed end is ignored."""

    def judged(started: Started, observed: ObservedInstance | None, backend_id: str = "") -> ObservedState:
        known = observe_state(started, observed, backend_id)
        return ObservedState.ACTIVE if known is ObservedState.ENDED else known

    patch.setattr(lookups, "observe_state", judged)


def probe_dated_at_its_end(patch: pytest.MonkeyPatch) -> None:
    """A scan claims to describe the moment at which it ended."""
    to_result = Scan.to_result

    def to_late_result(
        scan: Scan,
        status: ProbeStatus,
        provider: str,
        ended_at: Instant,
        *,
        message: str = "",
        messages: MessageEvidence | None = None,
    ) -> ProbeResult:
        whole = to_result(scan, status, provider, ended_at, message=message, messages=messages)
        return replace(whole, began_at=ended_at)

    patch.setattr(Scan, "to_result", to_late_result)


def fresh_answered_by_earlier_probe(patch: pytest.MonkeyPatch) -> None:
    """verify=fresh accepts an earlier probe."""
    probe_for_verdict = Verifier.probe_for_verdict

    async def probe_as_cached(verifier: Verifier, request: ProbeRequest) -> ProbeOutcome:
        mode = VerificationMode.CACHED if request.mode is VerificationMode.FRESH else request.mode
        return await probe_for_verdict(verifier, replace(request, mode=mode))

    patch.setattr(Verifier, "probe_for_verdict", probe_as_cached)


def records_read_before_scan(patch: pytest.MonkeyPatch) -> None:
    """Events that are recorded while a task hub is read do not count in the verdict."""
    probe_for_verdict = Verifier.probe_for_verdict

    async def probe_with_early_records(verifier: Verifier, request: ProbeRequest) -> ProbeOutcome:
        records = await verifier.get_recorded_state(request.task_hub, request.exemptions)
        return replace(await probe_for_verdict(verifier, request), recorded_state=records)

    patch.setattr(Verifier, "probe_for_verdict", probe_with_early_records)


MUTATIONS: Mapping[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        single_pass_scan,
        missed_starts_not_recorded,
        outdated_probe_accepted,
        outdated_probe_accepted_by_planner_only,
        entities_counted_in_scans,
        entities_counted_in_records,
        unconfirmed_start_taken_as_ended,
        confirmed_for_ever,
        never_confirmed,
        control_queues_not_read,
        first_page_only,
        first_page_of_each_range_only,
        pending_not_scanned,
        suspended_not_scanned,
        continued_as_new_not_scanned,
        changes_during_scan_ignored,
        observed_end_dated_now,
        observed_end_ignored,
        probe_dated_at_its_end,
        fresh_answered_by_earlier_probe,
        records_read_before_scan,
    )
}


@contextmanager
def apply_mutation(name: str) -> Iterator[None]:
    """Apply one mutation until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[name](patch)
        yield
