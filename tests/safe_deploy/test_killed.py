"""Killed anywhere, and run again: before and after every request to the server, and within the platform's swap."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dev.local import until
from tests.conftest import new_hub
from tests.safe_deploy.shop import SWAP, Request, Running, Shop, Starter, Way, kill, open_shop, way_to


@pytest.fixture(scope="module")
def way(server: httpx.Client) -> Iterator[Way]:
    with way_to(str(server.base_url)) as way:
        yield way


@pytest.fixture
def shops(server: httpx.Client, start: Starter, way: Way, tmp_path: Path) -> Callable[[], Shop]:
    """A new shop whenever one is asked for; safe-deploy reaches the server by the way."""

    def opened() -> Shop:
        folder = tmp_path / new_hub()
        folder.mkdir()
        return open_shop(server, start, folder, f"shop-{new_hub()}", way.url)

    return opened


class Killer:
    """Kills safe-deploy at one of its requests, counted from 1: before the server sees it, or before its answer comes
    back."""

    def __init__(self, way: Way, number: int, answered: bool) -> None:
        self.victim: Running | None = None
        self.known = threading.Event()
        way.clear()
        if answered:
            way.after = self.at(number)
        else:
            way.before = self.at(number)

    def at(self, wanted: int) -> Callable[[int, Request], bool]:
        def strike(number: int, request: Request) -> bool:
            if number != wanted:
                return False
            assert self.known.wait(60)
            assert self.victim is not None
            kill(self.victim)
            return True

        return strike

    def kills(self, shop: Shop, arguments: list[str]) -> None:
        self.victim = shop.start(arguments)
        self.known.set()
        ended = self.victim.end()
        assert ended.code == -signal.SIGKILL, ended.stderr


def swap_of(shop: Shop) -> list[str]:
    shop.stage()
    return shop.swap()


def rollback_of(shop: Shop) -> list[str]:
    """Of a swap that was done. The hub to come back to is then the new one of the shop."""
    shop.stage()
    shop.tell(shop.new, "Done")
    shop.carry(production=shop.new, staging=shop.old)
    shop.old, shop.new = shop.new, shop.old
    return shop.rollback()


def deploy_of(shop: Shop) -> list[str]:
    return shop.deploy()


LONG = pytest.mark.long
COMMANDS = pytest.mark.parametrize(
    "prepared", [swap_of, pytest.param(rollback_of, marks=LONG), pytest.param(deploy_of, marks=LONG)]
)


@COMMANDS
@pytest.mark.parametrize("answered", [False, True])
def test_whichever_request_is_the_last_of_a_killed_run_the_next_run_ends_well(
    shops: Callable[[], Shop], way: Way, prepared: Callable[[Shop], list[str]], answered: bool
) -> None:
    way.clear()
    whole = shops()
    ended = whole.run(prepared(whole))
    assert ended.code == 0, ended.stderr
    assert whole.is_swapped()
    requests = list(way.requests)
    assert len(requests) >= 3, "there is the look, the beginning, and the confirmation"
    shop: Shop | None = None
    for number, (method, _) in enumerate(requests, 1):
        if answered and method == "GET":
            # Nothing has changed: to be killed now is to be killed before the next request.
            continue
        if shop is None:
            shop = shops()
            arguments = prepared(shop)
            fresh = state(shop)
        Killer(way, number, answered).kills(shop, arguments)
        way.clear()
        if state(shop) == fresh and number < len(requests):
            # As if it had never been run: good enough for the next one to be killed.
            continue
        again = shop.run(arguments)
        assert again.code == 0, f"after request {number}: {again.stderr}"
        assert shop.is_swapped(), f"after request {number}: {again.stderr}"
        assert shop.swaps() == 1, f"after request {number}: {again.stderr}"
        shop = None


def state(shop: Shop) -> tuple[object, ...]:
    return shop.recorded(), shop.carried(), shop.pending(), shop.deploying(), shop.told()


@COMMANDS
@pytest.mark.parametrize("with_az", [False, True], ids=["alone", "with az"])
@pytest.mark.parametrize("swapped", [False, True], ids=["before it swaps", "after it has swapped"])
def test_killed_within_the_platforms_swap_the_next_run_ends_well(
    shops: Callable[[], Shop], way: Way, prepared: Callable[[Shop], list[str]], with_az: bool, swapped: bool
) -> None:
    way.clear()
    shop = shops()
    arguments = prepared(shop)
    # Who is left alone comes to its end soon; who is killed never does.
    seconds = 60 if with_az else 0.5
    shop.cloud.fault("swap", code=None, delay=0 if swapped else seconds, delay_after=seconds if swapped else 0, times=1)
    victim = shop.start(arguments)
    began = shop.carried if prepared is not deploy_of else lambda: (shop.old, shop.new)
    unswapped = began()
    until(lambda: shop.swaps() == 1 and (not swapped or shop.carried() != unswapped), "the platform swaps")
    kill(victim)
    if with_az:
        os.killpg(az_of(shop), signal.SIGKILL)
    assert shop.pending() == shop.new
    again = shop.run(arguments)
    assert again.code == 0, again.stderr
    assert shop.is_swapped(), again.stderr
    assert shop.swaps() == (2 if with_az and not swapped else 1)


def az_of(shop: Shop) -> int:
    """The process of this shop's `az` that swaps."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_text().split("\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if f"{shop.path}/az" in words and " ".join(SWAP.split()) in " ".join(words) and shop.app in words:
            return os.getpgid(int(entry.name))
    raise AssertionError("no az of this shop runs")
