"""The assessment of look-ups of single instances, for backends that see control queue messages and others."""

from collections.abc import Mapping

import pytest

from state_api.domain.readiness.evidence import ActiveInstance
from state_api.domain.readiness.lookups import Batch, BatchAssessment, assess_batch, next_batch, start_of
from state_api.domain.task_hubs.lifecycle import EvidenceSource, RuntimeStatus, Started
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.reconciliation import PURGED_REASON
from tests.domain.builders import NOON, build_active_instance, build_observed_instance

BACKEND_ID = "azureStorage at its address"
ORDER_1 = build_active_instance("order-1", since=-60)
OLD_ORDER = build_active_instance("old-order", since=-601)
RUNNING = build_observed_instance("order-1", updated=-30)
ENDED = build_observed_instance("order-1", status=RuntimeStatus.COMPLETED, updated=-30)
EARLIER_RUN = build_observed_instance("order-1", status=RuntimeStatus.COMPLETED, updated=-90)


def assess_instances(
    *instances: ActiveInstance,
    observed: Mapping[str, ObservedInstance] | None = None,
    observed_again: Mapping[str, ObservedInstance] | None = None,
    queued_messages: int | None = None,
    sees_messages: bool = True,
    recorded_starts: Mapping[str, Started] | None = None,
) -> BatchAssessment:
    """Assess a batch of instances after its look-ups.

    `observed` and `observed_again` are the instances that the task hub shows in the first and in the second look-up."""
    batch = Batch(
        instances,
        {instance.instance_id: (observed or {}).get(instance.instance_id) for instance in instances},
        sees_messages,
        queued_messages,
    )
    if batch.needs_second_look:
        second_lookup = {
            instance.instance_id: (observed_again or {}).get(instance.instance_id) for instance in batch.unconfirmed
        }
        batch = batch.after_second_look(second_lookup, recorded_starts or {})
    assert not batch.needs_second_look
    return assess_batch(batch, backend_id=BACKEND_ID, now=NOON)


def list_ended_ids(assessment: BatchAssessment) -> list[str]:
    return [end.instance_id for end in assessment.ended]


def test_an_instance_that_the_task_hub_shows_active_has_not_ended() -> None:
    assessment = assess_instances(ORDER_1, observed={"order-1": RUNNING})
    assert assessment.is_undecided
    assert [instance.instance_id for instance in assessment.active] == ["order-1"]
    assert assessment.event_instance_found
    assert not assessment.absence_counts


def test_an_instance_that_the_task_hub_shows_ended_has_ended() -> None:
    assessment = assess_instances(ORDER_1, observed={"order-1": ENDED})
    assert list_ended_ids(assessment) == ["order-1"]
    assert not assessment.is_undecided
    assert not assessment.absence_counts


@pytest.mark.parametrize("observed", [{}, {"order-1": EARLIER_RUN}], ids=["nothing", "an earlier run"])
def test_a_start_without_a_row_is_pending_while_the_control_queues_hold_messages(
    observed: Mapping[str, ObservedInstance],
) -> None:
    assessment = assess_instances(ORDER_1, observed=observed, observed_again=observed, queued_messages=1)
    assert assessment.pending == (ORDER_1,)
    assert not assessment.is_undecided
    assert not assessment.ended
    assert not assessment.absence_counts


def test_a_start_without_a_row_has_ended_if_the_control_queues_are_empty() -> None:
    assessment = assess_instances(ORDER_1, queued_messages=0)
    (end,) = assessment.ended
    assert end.finished is not None
    assert end.finished.reason == PURGED_REASON
    assert assessment.absence_counts


@pytest.mark.parametrize("queued_messages", [0, 1])
def test_a_row_that_the_second_look_shows_decides(queued_messages: int) -> None:
    assert assess_instances(ORDER_1, observed_again={"order-1": RUNNING}, queued_messages=queued_messages).is_undecided
    ended = assess_instances(ORDER_1, observed_again={"order-1": ENDED}, queued_messages=queued_messages)
    assert list_ended_ids(ended) == ["order-1"]
    assert not ended.absence_counts


def test_a_recent_start_blocks_if_the_control_queues_are_not_read() -> None:
    assessment = assess_instances(ORDER_1, sees_messages=False)
    assert assessment.is_undecided
    assert not assessment.ended
    assert not assessment.pending


def test_an_old_start_has_ended_if_the_control_queues_are_not_read() -> None:
    assessment = assess_instances(OLD_ORDER, sees_messages=False)
    assert list_ended_ids(assessment) == ["old-order"]
    assert assessment.absence_counts


@pytest.mark.parametrize(("backend_id", "has_ended"), [(BACKEND_ID, True), ("another backend", False), ("", False)])
def test_a_start_that_this_backend_has_confirmed_has_ended_if_the_control_queues_are_not_read(
    backend_id: str, *, has_ended: bool
) -> None:
    start = Started(ORDER_1.started_at, ORDER_1.runtime_status, ORDER_1.function_name, confirmed_backend=backend_id)
    assessment = assess_instances(ORDER_1, sees_messages=False, recorded_starts={"order-1": start})
    assert bool(assessment.ended) is has_ended
    assert not assessment.absence_counts


def test_instances_of_one_batch_are_assessed_one_by_one() -> None:
    missing = build_active_instance("order-2", since=-60)
    assessment = assess_instances(ORDER_1, missing, observed={"order-1": ENDED}, queued_messages=1)
    assert list_ended_ids(assessment) == ["order-1"]
    assert assessment.pending == (missing,)
    assert not assessment.is_undecided


def test_an_instance_that_only_a_probe_has_reported_does_not_confirm_the_backend() -> None:
    reported_by_probe = ActiveInstance(
        "order-1", "ProcessOrder", RuntimeStatus.RUNNING, NOON, NOON, EvidenceSource.PROBE
    )
    assert not assess_instances(reported_by_probe, observed={"order-1": RUNNING}).event_instance_found
    assert start_of(reported_by_probe).source is EvidenceSource.PROBE


def test_batches_grow_and_cover_every_instance_once() -> None:
    active = [build_active_instance(f"order-{number}") for number in range(600)]
    position, sizes = 0, []
    while batch := next_batch(active, position):
        assert list(batch) == active[position : position + len(batch)]
        sizes.append(len(batch))
        position += len(batch)
    assert sizes == [16, 32, 64, 128, 128, 128, 104]
