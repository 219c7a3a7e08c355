"""The judge of the histories: what the storage of a task hub says about an answer between two looks at it."""

import pytest

from tests.platform.witness import Row, StorageLook, active_throughout, blocking_in, starts_throughout

START, EVENT = {"start": True}, {"event": False}


def look(
    visible: dict[str, bool] | None = None, count: int | None = None, *, full: bool = False, **rows: Row
) -> StorageLook:
    visible = visible or {}
    return StorageLook(rows, visible, len(visible) if count is None else count, full)


def test_an_instance_was_active_throughout_if_nothing_wrote_to_its_active_row() -> None:
    before = look(waits=Row("Running", "1"), rewound=Row("Pending", "1"), ended=Row("Completed", "1"))
    assert active_throughout(before, before) == ["rewound", "waits"]
    written = look(waits=Row("Running", "2"), rewound=Row("Pending", "1"))
    assert active_throughout(before, written) == ["rewound"], "waits may have ended and been started again in between"
    assert active_throughout(before, look()) == []


def test_a_message_could_start_an_orchestration_throughout_if_both_looks_show_it() -> None:
    assert starts_throughout(look(START | EVENT), look(START | EVENT)) == ["start"]
    assert starts_throughout(look(START), look(EVENT)) == []
    assert starts_throughout(look(EVENT), look(START)) == []


@pytest.mark.parametrize(
    ("shown", "blocking"),
    [
        (look(ended=Row("Failed", "1")), []),
        (look(waits=Row("Running", "1"), count=5), ["row of waits"]),
        (StorageLook({"@counter@a": Row("Running", "1")}, {}, 0), []),
        (look(START | EVENT), ["message start"]),
        (look(EVENT, count=3), []),
        (look(EVENT, count=4), ["3 invisible messages beside 2 timers"]),
        (look(full=True), ["more messages than can be peeked"]),
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
def test_what_blocks_in_a_task_hub_that_no_worker_serves(shown: StorageLook, blocking: list[str]) -> None:
    assert blocking_in(shown, leftover_timers=2) == blocking
