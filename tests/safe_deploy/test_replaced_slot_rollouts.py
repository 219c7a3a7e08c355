"""Rollouts into a slot that another caller replaces while a command follows them. The command neither sets nor confirms
the share of the other rollout, and does not swap for it."""

from collections.abc import Callable

from safe_deploy.errors import ExitCode
from tests.safe_deploy.assertions import assert_exit
from tests.safe_deploy.connection_proxy import Request
from tests.safe_deploy.deployment_fixture import kill_cli
from tests.safe_deploy.slot_rollout_fixture import SlotRolloutFixture

PATCH = "resource patch"
REPLACED = ("the rollout of slot staging that began at", "has ended, and", "has begun that of slot staging")
NEXT_STEPS = [{"weight": 20, "minutes": 60}]


def happen_once(slot_rollout: SlotRolloutFixture, path_end: str, action: Callable[[], None], *, method: str) -> None:
    """Let something happen once, before the server has the next request of safe-deploy with this method and path."""
    happened: list[Request] = []

    def happen(number: int, request: Request) -> bool:
        """Let it happen at the first such request. No request is cut."""
        if request[0] == method and request[1].endswith(path_end) and not happened:
            happened.append(request)
            action()
        return False

    slot_rollout.proxy.cut_before_request = happen


def abort_on_server(slot_rollout: SlotRolloutFixture) -> None:
    """Another command aborts the rollout, and confirms that Azure sends no new visitor to the slot."""
    slot_rollout.request("POST", "/rollout/abort", json={"reason": "it is bad"})
    slot_rollout.request("POST", "/rollout/confirm", json={"weight": 0})


def begin_next(slot_rollout: SlotRolloutFixture) -> None:
    """The run that has staged the version rolls it out again, in other steps."""
    headers = {"X-Run-Url": slot_rollout.get_rollout()["runUrl"]}
    slot_rollout.request("PUT", "/rollout", json={"slot": "staging", "steps": NEXT_STEPS}, headers=headers)


def test_a_command_leaves_share_and_slots_to_the_rollout_that_has_replaced_its_own(
    slot_rollout: SlotRolloutFixture,
) -> None:
    def replace() -> None:
        """Abort the rollout, begin another one, and let that finish."""
        abort_on_server(slot_rollout)
        begin_next(slot_rollout)
        slot_rollout.request("POST", "/rollout/finish", json={})

    running = slot_rollout.start_until_confirmed(10)
    changes = slot_rollout.cli.fake_azure.count_calls(PATCH)
    happen_once(slot_rollout, "/rollout/advance", replace, method="POST")
    result = running.wait_for_result()
    assert_exit(result, ExitCode.CONFLICT, *REPLACED, "The share of slot staging is left to it")
    assert slot_rollout.cli.fake_azure.count_calls(PATCH) == changes
    assert slot_rollout.shares() == {"staging": 10}
    assert slot_rollout.cli.is_unswapped()
    rollout = slot_rollout.get_rollout()
    assert (rollout["state"], rollout["confirmed"]) == ("Finishing", False)


def test_a_late_confirmation_of_no_share_does_not_clear_the_next_rollout(slot_rollout: SlotRolloutFixture) -> None:
    def replace() -> None:
        """Confirm the removal before this command does, begin another rollout, and abort it."""
        slot_rollout.request("POST", "/rollout/confirm", json={"weight": 0})
        begin_next(slot_rollout)
        slot_rollout.request("POST", "/rollout/abort", json={})

    running = slot_rollout.start_until_confirmed(10)
    kill_cli(running)
    happen_once(slot_rollout, "/rollout/confirm", replace, method="POST")
    assert_exit(slot_rollout.abort(), ExitCode.CONFLICT, *REPLACED)
    rollout = slot_rollout.get_rollout()
    assert (rollout["state"], rollout["confirmed"], rollout["trafficUntil"]) == ("Aborting", False, None)


def test_a_share_is_not_raised_after_an_abort_while_azure_was_read(slot_rollout: SlotRolloutFixture) -> None:
    happen_once(slot_rollout, "/rollout", lambda: abort_on_server(slot_rollout), method="GET")
    result = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(result, ExitCode.FAILURE, "was aborted", "it is bad")
    assert slot_rollout.cli.fake_azure.count_calls(PATCH) == 0
    assert slot_rollout.shares() == {}


def test_a_share_is_not_raised_again_for_another_rollout_after_az_has_failed(slot_rollout: SlotRolloutFixture) -> None:
    def replace() -> None:
        """While az is called again and again, abort this rollout and begin another one."""
        abort_on_server(slot_rollout)
        begin_next(slot_rollout)
        slot_rollout.cli.fake_azure.clear_faults()

    slot_rollout.cli.fake_azure.set_fault(PATCH)
    reads: list[Request] = []

    def replace_before_second_attempt(number: int, request: Request) -> bool:
        """Replace the rollout when the command asks for it before its second attempt."""
        if request == ("GET", f"/api/apps/{slot_rollout.app}/rollout"):
            reads.append(request)
            if len(reads) == 2:
                replace()
        return False

    slot_rollout.proxy.cut_before_request = replace_before_second_attempt
    result = slot_rollout.run(slot_rollout.start_arguments())
    assert_exit(result, ExitCode.CONFLICT, *REPLACED)
    assert slot_rollout.cli.fake_azure.count_calls(PATCH) == 1
    assert slot_rollout.shares() == {}


def test_a_share_is_confirmed_although_something_else_in_the_app_has_changed(slot_rollout: SlotRolloutFixture) -> None:
    def change_policy() -> None:
        """An administrator changes the policy of the app."""
        slot_rollout.request("PUT", "", json={"policy": {"settleSeconds": 1}})

    happen_once(slot_rollout, "/rollout/confirm", change_policy, method="POST")
    running = slot_rollout.start_until_confirmed(10)
    slot_rollout.advance_clock_at_every_poll()
    assert_exit(running.wait_for_result(), ExitCode.DONE)
    assert slot_rollout.cli.is_swapped()
