"""The time of a request: no probe that began before it counts as fresh, however late the storage responds."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.app import StateServer
from state_api.domain.instants import TICKS_PER_SECOND
from state_api.domain.readiness.requirements import VerificationMode, is_fresh_enough
from state_api.storage.storage_clock import StorageClock
from tests.domain.read_plan_builders import FRESH, build_result
from tests.storage.clock_history import ClockHistory

LATENCIES = st.tuples(st.floats(0.001, 6.0), st.floats(0.001, 6.0))


@given(
    reading=st.lists(LATENCIES, min_size=1, max_size=10),
    requested=st.lists(LATENCIES, min_size=1, max_size=10),
    seconds_before=st.floats(0.0, 10.0),
)
def test_no_probe_from_before_a_request_is_fresh_however_slowly_the_storage_responds_to_either_server(
    reading: list[tuple[float, float]], requested: list[tuple[float, float]], seconds_before: float
) -> None:
    """Another server has read the task hub, and this one gets the request."""
    with pytest.MonkeyPatch.context() as patch:
        other_clock, history = StorageClock(), ClockHistory()
        patch.setattr(time, "monotonic", lambda: history.machine_time)
        own_clock = history.clock
        for clock, responses in ((own_clock, requested), (other_clock, reading)):
            history.clock = clock
            for latencies in responses:
                history.respond(*latencies)
                history.advance(1.0)
        probe = replace(build_result(), began_at=other_clock.now())
        history.advance(seconds_before)
        history.clock = own_clock
        history.respond(*requested[-1])
        assert not is_fresh_enough(probe, replace(FRESH, requested_at=own_clock.upper_bound()))


@pytest.mark.anyio
async def test_a_request_is_never_dated_before_it_came(server: StateServer) -> None:
    """The emulator runs on this machine, and cuts its dates to seconds."""
    for _ in range(5):
        came_at = time.time()
        await server.services.task_hub_queries.check_storage()
        verification = server.services.readiness.start_verification(VerificationMode.FRESH)
        assert verification.requested_at >= came_at * TICKS_PER_SECOND
