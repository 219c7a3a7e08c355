"""What the tests with dying, paused and wrongly set servers have in common: a stream of events while somebody asks, the
end of all orders, and the comparison with the truth."""

from collections.abc import Awaitable, Callable

from tests.conftest import new_hub
from tests.faults.orders import orders
from tests.faults.publisher import Publisher, publishing
from tests.faults.records import compare
from tests.faults.servers import Servers
from tests.faults.watch import Canary, Watcher, asking, stage

Trouble = Callable[[Publisher], Awaitable[None]]
SETTLE = 1


async def run_story(
    group: Servers,
    publisher: Publisher,
    events: int,
    trouble: Trouble,
    figures: Callable[..., None],
    span: float = 3600,
) -> None:
    """Publish so many events while `trouble` happens and two apps are asked about. Asserts that there is no wrong
    verdict, that nothing is lost and nothing wrong, and that all is Ready once all has ended."""
    hub, name = new_hub(), f"shop-{new_hub()}"
    truth = orders(hub, events, seed=publisher.seed, span=span)
    watcher = Watcher(group.addresses, name)
    canary = Canary(group.addresses, f"{name}-canary", hub=new_hub())
    await stage(group.addresses[0], name, hub, SETTLE)
    await stage(group.addresses[0], canary.app, canary.hub, 0)
    async with asking([watcher.watch(publisher), canary.sing()]):
        async with publishing(publisher, truth.events):
            await trouble(publisher)
        still_active = len(truth.active)
        assert (publisher.dropped, publisher.quarantined) == ({}, 0)
        assert publisher.surely_active == set(truth.active) != set()
        await watcher.every_server_says(ready=False)
        await publisher.run(truth.end_all())
        took = await watcher.every_server_says(ready=True)
    compared = await compare(group.addresses[0], group.storage, truth, publisher.told)
    figures(
        **publisher.summary(),
        kills=group.kills,
        lost=len(compared.lost),
        wrong=len(compared.wrong),
        wrong_ready=len(watcher.wrong),
        answers=watcher.answered,
        unanswered=watcher.unanswered.total(),
        canary_rounds=canary.rounds,
        canary_answers=canary.answered,
        canary_wrong=len(canary.wrong),
        active_before_the_end=still_active,
        ready_after=took,
        peak_rss_mb=group.note_memory(),
    )
    assert (publisher.dropped, publisher.quarantined) == ({}, 0)
    assert len(publisher.acknowledged) == len(truth.events) > events
    assert (compared.lost[:3], compared.wrong[:3]) == ([], [])
    assert (watcher.wrong[:3], canary.wrong[:3]) == ([], [])
    assert watcher.not_ready > 0
    assert canary.rounds > 1
