"""Figure 8: how soon a change of the routing reaches every request, on a real Envoy under load, and that no request
fails meanwhile."""

import asyncio
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from bench.comparison import Aim, Figure, compare_rounds, round_significant
from bench.load_generator import LoadError
from bench.routed_app import RoutedApp, kill, open_client, run_releases, start_router
from bench.storage import run_emulator
from bench.visitors import Traffic, Visitor, run_traffic

BASELINE, CANDIDATE, OTHER = VERSIONS = ("1.4.0", "1.5.0", "1.6.0")
PROMOTION, ROLLBACK = "promotion", "rollback"
PROMOTIONS = 5
"""Each is followed by a rollback."""
FLIPS = 25
"""Changes of the routing one after the other, each as soon as the router has acknowledged the one before."""
STICKY_VISITORS = 200
"""Visitors with cookies while a share grows."""
_VISITORS_OF_A_KIND = 8
"""Visitors with cookies, and as many without, during all changes but the growth."""
SHARES = (10, 20, 50)
"""The percents of the candidate while its share grows."""
LIMIT_SECONDS = 5
"""The longest time in which a change has to reach every request."""
_OBSERVED_SECONDS = 0.2
"""How long requests are observed before a change, and after the router has acknowledged it."""


@dataclass(frozen=True, slots=True)
class ChangeTimes:
    """The seconds of changes of one kind. `request` is what PutRouting took. The others begin with its response: until
    the last response of the former release, and until the router's acknowledgement was seen."""

    request: list[float] = field(default_factory=list)
    reached: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Measured:
    """What the section is made of. `moved`: sticky visitors at the candidate, for each of its shares. The requests are
    those of all visitors, during the flips and while the server was down."""

    moved: dict[int, int]
    times: dict[str, ChangeTimes]
    flips: int
    flip_requests: int
    outage_requests: int


async def run(
    folder: Path, promotions: int = PROMOTIONS, flips: int = FLIPS, sticky_visitors: int = STICKY_VISITORS
) -> dict[str, Any]:
    """Measure all on one Envoy. Raises LoadError if a request fails, if a growing share moves a visitor back, or if the
    last routes are not served while the server is down."""
    async with AsyncExitStack() as stack:
        storage = stack.enter_context(run_emulator())
        app = RoutedApp(storage.settings, folder, await stack.enter_async_context(open_client()))
        addresses = await stack.enter_async_context(run_releases(VERSIONS))
        server = stack.enter_context(app.run_server())
        await app.create(addresses)
        follower = await start_router(stack, app)
        sticky = [Visitor(keeps_cookies=True) for _ in range(sticky_visitors)]
        moved = await _grow_share(app, sticky)
        # The visitors with cookies still send those of the growth.
        visitors = [*sticky[:_VISITORS_OF_A_KIND], *(Visitor() for _ in range(_VISITORS_OF_A_KIND))]
        async with run_traffic(app.router_url, visitors) as traffic:
            times = await _measure_changes(app, traffic, promotions)
            flip_requests = await _flip(app, traffic, flips)
            outage_requests = await _observe_outage(stack, app, traffic, (server.process, follower))
    return _build_section(Measured(moved, times, flips, flip_requests, outage_requests))


async def _grow_share(app: RoutedApp, visitors: Sequence[Visitor]) -> dict[int, int]:
    """Let the candidate's share grow under load. Returns how many visitors are at the candidate at each share."""
    moved: dict[int, int] = {}
    first, *larger = SHARES
    await app.wait_until_acknowledged(await app.change_routing(BASELINE, _split(first)))
    async with run_traffic(app.router_url, visitors) as traffic:
        await traffic.wait_for_all()
        moved[first] = count_moved(visitors)
        for share in larger:
            await app.wait_until_acknowledged(await app.change_routing(BASELINE, _split(share)))
            await traffic.wait_for_all()
            moved[share] = count_moved(visitors)
    return moved


def _split(share: int) -> dict[str, int]:
    """The split that gives the candidate this share, in percent."""
    return {BASELINE: 100 - share, CANDIDATE: share}


def count_moved(visitors: Sequence[Visitor]) -> int:
    """How many visitors are at the candidate. Raises LoadError if one has left it."""
    moved_back = sum(CANDIDATE in visitor.stays[:-1] for visitor in visitors)
    if moved_back:
        raise LoadError(f"a growing share has moved {moved_back} of {len(visitors)} visitors back")
    return sum(visitor.stays[-1] == CANDIDATE for visitor in visitors)


async def _measure_changes(app: RoutedApp, traffic: Traffic, promotions: int) -> dict[str, ChangeTimes]:
    """Promote and roll back in turns. A request counts until the next change, however late it is."""
    times = {PROMOTION: ChangeTimes(), ROLLBACK: ChangeTimes()}
    former = BASELINE
    await app.wait_until_acknowledged(await app.change_routing(former))
    for promoted in islice(cycle((CANDIDATE, OTHER)), promotions):
        for kind, version in ((PROMOTION, promoted), (ROLLBACK, BASELINE)):
            await asyncio.sleep(_OBSERVED_SECONDS)
            change = await app.change_routing(version)
            acknowledged = await app.wait_until_acknowledged(change)
            await asyncio.sleep(_OBSERVED_SECONDS)
            last = traffic.find_last_answer(former)
            times[kind].request.append(change.seconds)
            times[kind].reached.append(max(0.0, last - change.at))
            times[kind].acknowledged.append(acknowledged)
            former = version
    return times


async def _flip(app: RoutedApp, traffic: Traffic, flips: int) -> int:
    """Change the routing again and again, each time as soon as the router has acknowledged. Returns the number of
    requests meanwhile."""
    before = len(traffic.answers)
    for version in islice(cycle((CANDIDATE, OTHER, BASELINE)), flips):
        await app.wait_until_acknowledged(await app.change_routing(version))
        traffic.check()
    return len(traffic.answers) - before


async def _observe_outage(
    stack: AsyncExitStack, app: RoutedApp, traffic: Traffic, processes: Sequence[subprocess.Popen[bytes]]
) -> int:
    """Kill the server and then the follower, and start both again, the server last. Returns the number of requests
    meanwhile, all answered by the last routes."""
    await app.wait_until_acknowledged(await app.change_routing(CANDIDATE))
    # Requests that were sent before may still be answered by another release.
    await traffic.wait_for_all()
    before = len(traffic.answers)
    for process in processes:
        kill(process)
        await traffic.wait_for_all()
    stack.enter_context(app.run_follower())
    await app.wait_until_unreachable()
    await traffic.wait_for_all()
    answers = traffic.answers[before:]
    if {answer.release for answer in answers} != {CANDIDATE}:
        raise LoadError("the last routes were not served while the server was down")
    await asyncio.to_thread(stack.enter_context, app.run_server())
    await app.wait_until_acknowledged(await app.change_routing(OTHER))
    return len(answers)


def _build_section(measured: Measured) -> dict[str, Any]:
    """The section of this figure in the results."""
    times = measured.times
    count = len(times[PROMOTION].reached)
    figures = [
        Figure(
            f"{kind}, until {event}, longest of {count}",
            f"the limit of {LIMIT_SECONDS} s",
            (max(seconds) / LIMIT_SECONDS,),
            Aim(maximum=1.0),
        )
        for kind, kind_times in times.items()
        for event, seconds in (
            ("the last response of the former release", kind_times.reached),
            ("the router's acknowledgement", kind_times.acknowledged),
        )
    ]
    figures += [
        compare_rounds(
            f"{kind}, until the last response of the former release, median of {count}",
            [statistics.median(kind_times.reached)],
            "the request PutRouting, median",
            [statistics.median(kind_times.request)],
        )
        for kind, kind_times in times.items()
    ]
    return {
        "figures": [figure.as_json() for figure in figures],
        "notes": [_describe(measured)],
        "seconds": {
            kind: {name: [round_significant(value) for value in values] for name, values in asdict(kind_times).items()}
            for kind, kind_times in times.items()
        },
        "flipRequests": measured.flip_requests,
        "outageRequests": measured.outage_requests,
        "visitorsAtCandidate": {str(share): count for share, count in measured.moved.items()},
    }


def _describe(measured: Measured) -> str:
    """The longest times in seconds, and what has not failed, in sentences."""
    longest = {kind: max(kind_times.reached) for kind, kind_times in measured.times.items()}
    moved = ", ".join(f"{count} at {share} %" for share, count in measured.moved.items())
    return (
        f"The longest promotion took {longest[PROMOTION]:.2f} s to reach every request, and the longest rollback "
        f"{longest[ROLLBACK]:.2f} s. Of {measured.flip_requests:,} requests during {measured.flips} changes one after "
        f"the other, none failed. While the server was down, and after the follower was killed and restarted, the last "
        f"routes served {measured.outage_requests:,} requests. While the share of a release grew, no visitor with a "
        f"cookie moved back. Visitors of that release: {moved}."
    )
