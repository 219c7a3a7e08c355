"""Objects from the start of the server do not make garbage collections slow."""

import gc

from state_api.garbage_collection import exempt_startup_objects_from_collection


def test_collections_do_not_walk_through_objects_that_existed_at_the_start() -> None:
    """`gc.get_objects` lists what a full collection walks through."""
    before = [object()]
    exempt_startup_objects_from_collection()
    try:
        after = [object()]
        walked = {id(tracked) for tracked in gc.get_objects()}
        assert id(after) in walked
        assert id(before) not in walked
    finally:
        gc.unfreeze()
