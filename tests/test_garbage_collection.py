"""Garbage collections are rare while requests are served, and do not walk through objects from the start."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from state_api.garbage_collection import configure_garbage_collection


@pytest.fixture(autouse=True)
def _restored_collector() -> Iterator[None]:
    """Restores the settings of the collector, which the whole process of the tests shares."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_collections_do_not_walk_through_objects_that_existed_at_the_start() -> None:
    """`gc.get_objects` lists what a full collection walks through."""
    before = [object()]
    configure_garbage_collection()
    after = [object()]
    walked = {id(tracked) for tracked in gc.get_objects()}
    assert id(after) in walked
    assert id(before) not in walked


def test_the_objects_of_many_requests_cause_no_collection() -> None:
    """64 requests in progress have about 2,500 objects."""
    configure_garbage_collection()
    gc.collect()
    generations: list[int] = []

    def note_generation(phase: str, info: dict[str, Any]) -> None:
        generations.append(info["generation"])

    gc.callbacks.append(note_generation)
    try:
        objects_in_progress = [[number] for number in range(2_500)]
    finally:
        gc.callbacks.remove(note_generation)
    assert len(objects_in_progress) == 2_500
    assert generations == []


def test_cycles_of_objects_are_still_collected() -> None:
    """The collector stays on: what only refers to itself does not stay for ever."""
    configure_garbage_collection()
    gc.collect()
    generations: list[int] = []

    def note_generation(phase: str, info: dict[str, Any]) -> None:
        generations.append(info["generation"])

    gc.callbacks.append(note_generation)
    try:
        for _ in range(200_000):
            cycle: list[Any] = []
            cycle.append(cycle)
    finally:
        gc.callbacks.remove(note_generation)
    assert 0 in generations
    assert 1 in generations
