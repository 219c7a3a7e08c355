"""Who reaches a slot during and after a rollout, and how long the server keeps the slot for that."""

import signal

from harness.processes import wait_until
from safe_deploy.errors import ExitCode
from safe_deploy.rendering import parse_timestamp
from tests.safe_deploy.assertions import assert_exit
from tests.safe_deploy.deployment_fixture import RunningCli
from tests.safe_deploy.slot_rollout_fixture import SlotRolloutFixture
from tests.safe_deploy.slot_visitors import FRONT_END_SECONDS, SlotVisitors, Visitor

NEW_VISITORS = 200
CLOCK_ERROR_SECONDS = 5
"""More than the real time that passes between two steps of these tests, which adds to the clock of the server."""


def open_visitors(slot_rollout: SlotRolloutFixture, *, ignores_share: bool = False) -> SlotVisitors:
    """The visitors of the app, by the clock of the server. They know the rules from before the rollout."""
    visitors = SlotVisitors(
        slot_rollout.cli.fake_azure, slot_rollout.app, slot_rollout.now_seconds, ignores_share=ignores_share
    )
    assert visitors.send_new_visitors(NEW_VISITORS) == []
    return visitors


def is_held_by_rollout(slot_rollout: SlotRolloutFixture) -> bool:
    """Whether the server keeps the slot because visitors may come."""
    return "RolloutInProgress" in slot_rollout.slot_reasons()


def advance_to(slot_rollout: SlotRolloutFixture, moment: float) -> None:
    """Advance the clock to this time in seconds."""
    slot_rollout.clock.advance(moment - slot_rollout.now_seconds())


def read_traffic_end(slot_rollout: SlotRolloutFixture) -> float:
    """Until when visitors may come, as the server says, in seconds."""
    return parse_timestamp(slot_rollout.get_rollout()["trafficUntil"]).timestamp()


def read_settle_seconds(slot_rollout: SlotRolloutFixture) -> float:
    """How long the server waits for events after the last visitor has left."""
    return float(slot_rollout.cli.get_app()["policy"]["settleSeconds"])


def begin(slot_rollout: SlotRolloutFixture, visitors: SlotVisitors) -> tuple[RunningCli, list[Visitor]]:
    """Give the slot 10 %, and let new visitors come. Returns the command that follows the rollout, and the visitors
    that reach the slot."""
    running = slot_rollout.start_until_confirmed(10)
    visitors.send_new_visitors(1)
    slot_rollout.clock.advance(FRONT_END_SECONDS + 1)
    pinned = visitors.send_new_visitors(NEW_VISITORS)
    assert all(visitors.send_request(visitor) == slot_rollout.cli.new for visitor in pinned)
    assert not running.has_ended()
    return running, pinned


def test_after_an_abort_only_visitors_with_a_cookie_reach_the_slot_and_it_is_kept_until_the_last_is_gone(
    slot_rollout: SlotRolloutFixture,
) -> None:
    visitors = open_visitors(slot_rollout)
    follower, pinned = begin(slot_rollout, visitors)
    assert len(pinned) == NEW_VISITORS / 10
    # It would see the abort, and confirm a second time that the share is removed, maybe after the clock has advanced.
    follower.send(signal.SIGKILL)
    assert_exit(slot_rollout.abort(), ExitCode.DONE)
    late = visitors.send_new_visitors(NEW_VISITORS)
    assert late, "the front ends do not know the removal yet"
    slot_rollout.clock.advance(FRONT_END_SECONDS + 1)
    assert visitors.send_new_visitors(NEW_VISITORS) == []
    last_expiry = max(visitor.expires_at for visitor in pinned + late)
    traffic_end = read_traffic_end(slot_rollout)
    assert last_expiry <= traffic_end <= last_expiry + FRONT_END_SECONDS + CLOCK_ERROR_SECONDS

    advance_to(slot_rollout, last_expiry - CLOCK_ERROR_SECONDS)
    assert visitors.send_request(late[-1]) == slot_rollout.cli.new
    assert is_held_by_rollout(slot_rollout)
    held_until = traffic_end + read_settle_seconds(slot_rollout)
    advance_to(slot_rollout, held_until - CLOCK_ERROR_SECONDS)
    assert is_held_by_rollout(slot_rollout)
    advance_to(slot_rollout, held_until + 1)
    assert slot_rollout.request("GET", "/staging")["ready"]
    assert {visitors.send_request(visitor) for visitor in pinned + late} == {slot_rollout.cli.old}


def test_after_the_swap_visitors_with_a_cookie_reach_the_old_version_and_the_slot_is_kept_for_them(
    slot_rollout: SlotRolloutFixture,
) -> None:
    visitors = open_visitors(slot_rollout)
    _, pinned = begin(slot_rollout, visitors)
    slot_rollout.advance_clock_at_every_poll()
    wait_until(lambda: slot_rollout.state() == "Finished", "the slots are swapped")
    assert slot_rollout.cli.is_swapped()
    slot_rollout.proxy.clear()
    returning = visitors.send_new_visitors(NEW_VISITORS)
    assert {visitors.send_request(visitor) for visitor in returning} <= {slot_rollout.cli.old}
    still_pinned = [visitor for visitor in pinned if visitor.expires_at > slot_rollout.now_seconds()]
    assert {visitors.send_request(visitor) for visitor in still_pinned} <= {slot_rollout.cli.old}
    assert is_held_by_rollout(slot_rollout)
    advance_to(slot_rollout, read_traffic_end(slot_rollout) + read_settle_seconds(slot_rollout) + 1)
    assert not is_held_by_rollout(slot_rollout)
    assert {visitors.send_request(visitor) for visitor in pinned + returning} == {slot_rollout.cli.new}


def test_no_visitor_reaches_the_slot_of_a_plan_that_ignores_the_share(slot_rollout: SlotRolloutFixture) -> None:
    visitors = open_visitors(slot_rollout, ignores_share=True)
    slot_rollout.start_until_confirmed(10)
    slot_rollout.clock.advance(FRONT_END_SECONDS + 1)
    assert visitors.send_new_visitors(NEW_VISITORS) == []
    assert_exit(slot_rollout.abort(), ExitCode.DONE)
