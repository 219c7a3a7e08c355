"""Mutations: faults that are patched into the server, to check that the simulator notices them."""

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
from state_api.domain.readiness.plan import ProbeOutcome
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.scans import Scan
from state_api.domain.readiness.validity import is_probe_valid
from state_api.domain.task_hubs import lifecycle, observations
from state_api.domain.task_hubs.lifecycle import Instance, Started
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import ObservedState, observe_state, reconcile_end
from state_api.services import record_correction
from state_api.services.probe_requests import ProbeRequest
from state_api.services.record_correction import RecordCorrector
from state_api.services.verification import Verifier

Mutation = Callable[[pytest.MonkeyPatch], None]


def stop_scans_after_first_pass(patch: pytest.MonkeyPatch) -> None:
    """A scan is complete after the first pass, regardless of changes."""
    patch.setattr(Scan, "finish_pass", lambda scan: not scan.cursors)


def skip_missed_starts(patch: pytest.MonkeyPatch) -> None:
    """Active instances that a probe finds are not recorded."""
    patch.setattr(record_correction, "reconcile_start", lambda known, observed, now: None)


def accept_outdated_probes(patch: pytest.MonkeyPatch) -> None:
    """A probe stays valid although an event was recorded after it began."""
    patch.setattr(verdict, "is_probe_valid", _is_valid_without_events)
    patch.setattr(plan, "is_probe_valid", _is_valid_without_events)


def accept_outdated_probes_in_planner_only(patch: pytest.MonkeyPatch) -> None:
    """The planner does not read a task hub again after an event, and the verdict still rejects the old probe."""
    patch.setattr(plan, "is_probe_valid", _is_valid_without_events)


def _is_valid_without_events(
    probe: ProbeResult, activity: InstanceActivity, policy: Policy, now: Instant, *, seen_before: bool = True
) -> bool:
    """Take a probe as valid although an event was recorded since."""
    return is_probe_valid(probe, replace(activity, last_recorded_at=None), policy, now, seen_before=seen_before)


def count_entities_in_scans(patch: pytest.MonkeyPatch) -> None:
    """Scans count entities as orchestrations."""
    _replace_scan_filter(patch, f"({azure_storage._CHANGED_FILTER} or not ({azure_storage._ENDED_FILTER}))")
    patch.setattr(observations, "is_entity", lambda instance_id: False)


def count_entities_in_records(patch: pytest.MonkeyPatch) -> None:
    """Records count entities as orchestrations."""
    patch.setattr(lifecycle, "is_entity", lambda instance_id: False)


def treat_unconfirmed_starts_as_ended(patch: pytest.MonkeyPatch) -> None:
    """A start that the task hub does not show yet counts as ended."""

    def observe_unconfirmed_as_ended(
        started: Started, observed: ObservedInstance | None, backend_id: str = ""
    ) -> ObservedState:
        """Take a start that the backend does not show, and has never shown, as ended."""
        state = observe_state(started, observed, backend_id)
        return ObservedState.ENDED if state is ObservedState.UNCONFIRMED else state

    patch.setattr(lookups, "observe_state", observe_unconfirmed_as_ended)


def apply_confirmations_to_later_starts(patch: pytest.MonkeyPatch) -> None:
    """A confirmation of one start of an instance id counts for all later starts of it."""
    confirm_starts, read_recorded_starts = RecordCorrector.confirm_starts, RecordCorrector.read_recorded_starts
    backend_ids: dict[tuple[str, str], str] = {}

    async def confirm_and_remember(
        record_corrector: RecordCorrector,
        request: ProbeRequest,
        starts: Sequence[tuple[Started, ObservedInstance]],
        *,
        observed_at: Instant,
    ) -> None:
        """Confirm starts as the server does, and remember which instances were shown."""
        for _, observed in starts:
            if observed.active:
                backend_ids[request.task_hub, observed.instance_id] = request.backend_id
        await confirm_starts(record_corrector, request, starts, observed_at=observed_at)

    async def read_all_as_confirmed(
        record_corrector: RecordCorrector, task_hub: str, instances: Sequence[ActiveInstance]
    ) -> Mapping[str, Started]:
        """Take each remembered instance as confirmed, also if it was started again since."""
        starts = {instance.instance_id: start_of(instance) for instance in instances}
        starts |= await read_recorded_starts(record_corrector, task_hub, instances)
        return {
            instance_id: replace(started, confirmed_backend=backend_ids.get((task_hub, instance_id), ""))
            for instance_id, started in starts.items()
        }

    patch.setattr(RecordCorrector, "confirm_starts", confirm_and_remember)
    patch.setattr(RecordCorrector, "read_recorded_starts", read_all_as_confirmed)


def forget_confirmations(patch: pytest.MonkeyPatch) -> None:
    """Confirmations of starts are forgotten."""

    async def read_nothing(
        record_corrector: RecordCorrector, task_hub: str, instances: Sequence[ActiveInstance]
    ) -> Mapping[str, Started]:
        """Take no start as confirmed."""
        return {}

    patch.setattr(RecordCorrector, "read_recorded_starts", read_nothing)


def skip_control_queues(patch: pytest.MonkeyPatch) -> None:
    """The control queues are not read."""

    async def read_empty_snapshot(backend: AzureStorageBackend, task_hub: str) -> QueueSnapshot:
        """Take the control queues as empty."""
        return QueueSnapshot()

    patch.setattr(AzureStorageBackend, "read_queue_snapshot", read_empty_snapshot)


def read_first_page_only(patch: pytest.MonkeyPatch) -> None:
    """A scan reads only the first page."""
    _truncate_pages(patch, lambda cursor: True)


def read_first_page_of_each_range_only(patch: pytest.MonkeyPatch) -> None:
    """A scan that is split into ranges reads only the first page of each."""
    _truncate_pages(patch, lambda cursor: azure_storage._decode_cursor(cursor)[0] is not None)


def _truncate_pages(patch: pytest.MonkeyPatch, is_truncated: Callable[[str], bool]) -> None:
    """Let a read of a page claim that no page follows it, if `is_truncated` holds for its cursor."""
    read = AzureStorageBackend.read_page

    async def read_truncated_page(
        backend: AzureStorageBackend, task_hub: str, since: Instant, cursor: str
    ) -> ObservedPage:
        """Take a page as the last one although others follow it."""
        page = await read(backend, task_hub, since, cursor)
        return replace(page, cursors=()) if is_truncated(cursor) else page

    patch.setattr(AzureStorageBackend, "read_page", read_truncated_page)


def exclude_pending_from_scans(patch: pytest.MonkeyPatch) -> None:
    """Scans do not ask for Pending."""
    _exclude_status(patch, "Pending")


def exclude_suspended_from_scans(patch: pytest.MonkeyPatch) -> None:
    """Scans do not ask for Suspended."""
    _exclude_status(patch, "Suspended")


def exclude_continued_as_new_from_scans(patch: pytest.MonkeyPatch) -> None:
    """Scans do not ask for ContinuedAsNew."""
    _exclude_status(patch, "ContinuedAsNew")


def _exclude_status(patch: pytest.MonkeyPatch, status: str) -> None:
    """Let scans return no row of this status, not even one that was written during the scan."""
    _replace_scan_filter(patch, f"({azure_storage._ACTIVE_OR_CHANGED_FILTER} and RuntimeStatus ne '{status}')")


def _replace_scan_filter(patch: pytest.MonkeyPatch, scan_filter: str) -> None:
    """Let scans read the rows that match this filter, and no others."""
    patch.setattr(azure_storage, "_ACTIVE_OR_CHANGED_FILTER", scan_filter)
    patch.setattr(azure_storage, "_RANGE_FILTER", f"PartitionKey ge @from and PartitionKey lt @to and {scan_filter}")
    patch.setattr(azure_storage, "_LAST_RANGE_FILTER", f"PartitionKey ge @from and {scan_filter}")


def ignore_changes_during_scans(patch: pytest.MonkeyPatch) -> None:
    """Scans do not return rows that changed while they read."""
    patch.setattr(azure_storage, "_CLOCK_SKEW_MARGIN", -seconds(60))


def date_observed_ends_now(patch: pytest.MonkeyPatch) -> None:
    """An observed end is dated at the current time."""

    def reconcile_end_now(instance: Instance, observed: ObservedInstance | None) -> Instance:
        """Record an end with the present time, although the instance may have ended before and started again."""
        correction = reconcile_end(instance, observed)
        assert correction.finished is not None
        now = Instant(int(time.time() * TICKS_PER_SECOND))
        return replace(correction, finished=replace(correction.finished, at=max(correction.finished.at, now)))

    patch.setattr(lookups, "reconcile_end", reconcile_end_now)


def ignore_observed_ends(patch: pytest.MonkeyPatch) -> None:
    """An observed end is ignored."""

    def observe_ended_as_active(
        started: Started, observed: ObservedInstance | None, backend_id: str = ""
    ) -> ObservedState:
        """Take an instance as active although the backend shows that it has ended."""
        state = observe_state(started, observed, backend_id)
        return ObservedState.ACTIVE if state is ObservedState.ENDED else state

    patch.setattr(lookups, "observe_state", observe_ended_as_active)


def date_probes_at_their_end(patch: pytest.MonkeyPatch) -> None:
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
        """Give a scan the time of its end as that of its beginning."""
        result = to_result(scan, status, provider, ended_at, message=message, messages=messages)
        return replace(result, began_at=ended_at)

    patch.setattr(Scan, "to_result", to_late_result)


def answer_fresh_requests_by_earlier_probes(patch: pytest.MonkeyPatch) -> None:
    """verify=fresh accepts an earlier probe."""
    probe_for_verdict = Verifier.probe_for_verdict

    async def probe_as_cached(verifier: Verifier, request: ProbeRequest) -> ProbeOutcome:
        """Use an earlier probe although a fresh one is required."""
        mode = VerificationMode.CACHED if request.mode is VerificationMode.FRESH else request.mode
        return await probe_for_verdict(verifier, replace(request, mode=mode))

    patch.setattr(Verifier, "probe_for_verdict", probe_as_cached)


def read_records_before_scans(patch: pytest.MonkeyPatch) -> None:
    """Events that are recorded while a task hub is read do not count in the verdict."""
    probe_for_verdict = Verifier.probe_for_verdict

    async def probe_with_early_records(verifier: Verifier, request: ProbeRequest) -> ProbeOutcome:
        """Judge by records that were read before the probe."""
        records = await verifier.get_recorded_state(request.task_hub, request.exemptions)
        return replace(await probe_for_verdict(verifier, request), recorded_state=records)

    patch.setattr(Verifier, "probe_for_verdict", probe_with_early_records)


MUTATIONS: Mapping[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        stop_scans_after_first_pass,
        skip_missed_starts,
        accept_outdated_probes,
        accept_outdated_probes_in_planner_only,
        count_entities_in_scans,
        count_entities_in_records,
        treat_unconfirmed_starts_as_ended,
        apply_confirmations_to_later_starts,
        forget_confirmations,
        skip_control_queues,
        read_first_page_only,
        read_first_page_of_each_range_only,
        exclude_pending_from_scans,
        exclude_suspended_from_scans,
        exclude_continued_as_new_from_scans,
        ignore_changes_during_scans,
        date_observed_ends_now,
        ignore_observed_ends,
        date_probes_at_their_end,
        answer_fresh_requests_by_earlier_probes,
        read_records_before_scans,
    )
}


@contextmanager
def apply_mutation(name: str) -> Iterator[None]:
    """Apply one mutation until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[name](patch)
        yield
