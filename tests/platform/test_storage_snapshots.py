"""What two snapshots of a task hub's storage prove about the time between them."""

import pytest

from tests.platform.storage_snapshots import (
    InstanceRow,
    StorageSnapshot,
    find_active_throughout,
    find_blockers,
    find_starts_throughout,
)

START, EVENT = {"start": True}, {"event": False}


def build_snapshot(
    visible: dict[str, bool] | None = None,
    message_count: int | None = None,
    *,
    more_visible: bool = False,
    **rows: InstanceRow,
) -> StorageSnapshot:
    """Return a snapshot in which all messages are visible, unless there is a `message_count`."""
    visible = visible or {}
    return StorageSnapshot(rows, visible, len(visible) if message_count is None else message_count, more_visible)


def test_an_instance_was_active_throughout_if_its_active_row_is_unchanged() -> None:
    before = build_snapshot(
        waits=InstanceRow("Running", "1"), rewound=InstanceRow("Pending", "1"), ended=InstanceRow("Completed", "1")
    )
    assert find_active_throughout(before, before) == ["rewound", "waits"]
    changed = build_snapshot(waits=InstanceRow("Running", "2"), rewound=InstanceRow("Pending", "1"))
    assert find_active_throughout(before, changed) == ["rewound"], (
        "waits may have ended and been started again in between"
    )
    assert find_active_throughout(before, build_snapshot()) == []


def test_a_message_could_start_an_orchestration_throughout_if_both_snapshots_show_it() -> None:
    assert find_starts_throughout(build_snapshot(START | EVENT), build_snapshot(START | EVENT)) == ["start"]
    assert find_starts_throughout(build_snapshot(START), build_snapshot(EVENT)) == []
    assert find_starts_throughout(build_snapshot(EVENT), build_snapshot(START)) == []


@pytest.mark.parametrize(
    ("storage", "blockers"),
    [
        (build_snapshot(ended=InstanceRow("Failed", "1")), []),
        (build_snapshot(waits=InstanceRow("Running", "1"), message_count=5), ["row of waits"]),
        (StorageSnapshot({"@counter@a": InstanceRow("Running", "1")}, {}, 0), []),
        (build_snapshot(START | EVENT), ["message start"]),
        (build_snapshot(EVENT, message_count=3), []),
        (build_snapshot(EVENT, message_count=4), ["3 invisible messages beside 2 timers"]),
        (build_snapshot(more_visible=True), ["more messages than can be peeked"]),
    ],
    ids=[
        "all have ended",
        "an active row",
        "an entity, which never ends",
        "a start among visible messages",
        "invisible messages of timers alone",
        "an invisible message that is no timer's",
        "more than can be peeked",
    ],
)
def test_the_storage_shows_what_blocks_in_a_task_hub_without_a_worker(
    storage: StorageSnapshot, blockers: list[str]
) -> None:
    assert find_blockers(storage, leftover_timer_count=2) == blockers
