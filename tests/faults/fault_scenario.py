"""The scenario of the tests with killed and paused servers and wrong clocks. Events are published while two apps are
polled. Then all orders end, and the records are compared with the expected records."""

from collections.abc import Awaitable, Callable

from tests.conftest import new_hub_name
from tests.faults.event_stream import generate_orders
from tests.faults.publisher import Publisher, publish_in_background
from tests.faults.record_comparison import compare_records
from tests.faults.server_group import ServerGroup
from tests.faults.verdict_pollers import SingleOrderPoller, WrongReadyWatcher, register_and_stage, run_while

InjectFaults = Callable[[Publisher], Awaitable[None]]
SETTLE_SECONDS = 1


async def run_fault_scenario(
    group: ServerGroup,
    publisher: Publisher,
    *,
    events: int,
    inject_faults: InjectFaults,
    record_figures: Callable[..., None],
    span_seconds: float = 3600,
) -> None:
    """Publish `events` events during `inject_faults`, and poll two apps. Fails if a verdict or a record is wrong, if an
    acknowledged event is lost, or if a server does not say Ready after all orders have ended."""
    hub, name = new_hub_name(), f"shop-{new_hub_name()}"
    expected = generate_orders(hub, events, seed=publisher.seed, span_seconds=span_seconds)
    watcher = WrongReadyWatcher(group.addresses, name)
    canary = SingleOrderPoller(group.addresses, f"{name}-canary", hub=new_hub_name())
    await register_and_stage(group.addresses[0], name, hub, SETTLE_SECONDS)
    await register_and_stage(group.addresses[0], canary.app, canary.hub, 0)
    async with run_while([watcher.watch(publisher), canary.run_rounds()]):
        async with publish_in_background(publisher, expected.events):
            await inject_faults(publisher)
        still_active = len(expected.active)
        assert (publisher.dropped, publisher.quarantined) == ({}, 0)
        assert publisher.known_active == set(expected.active) != set()
        await watcher.wait_for_verdict(ready=False)
        await publisher.run(expected.end_active())
        ready_after = await watcher.wait_for_verdict(ready=True)
    compared = await compare_records(group.addresses[0], group.storage, expected, publisher.acknowledged_events)
    record_figures(
        **publisher.summary(),
        kills=group.kills,
        lost=len(compared.lost),
        wrong=len(compared.differences),
        wrong_ready=len(watcher.wrong),
        answers=watcher.answered,
        unanswered=watcher.unanswered.total(),
        canary_rounds=canary.rounds,
        canary_answers=canary.answered,
        canary_wrong=len(canary.wrong),
        active_before_the_end=still_active,
        ready_after=ready_after,
        peak_rss_mb=group.update_peak_memory(),
    )
    assert (publisher.dropped, publisher.quarantined) == ({}, 0)
    assert len(publisher.acknowledged) == len(expected.events) > events
    assert (compared.lost[:3], compared.differences[:3]) == ([], [])
    assert (watcher.wrong[:3], canary.wrong[:3]) == ([], [])
    assert watcher.not_ready > 0
    assert canary.rounds > 1
