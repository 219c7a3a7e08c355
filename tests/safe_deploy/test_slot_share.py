"""The share of a slot that is removed in Azure: it is watched, because a change that was requested before may arrive
late."""

from collections.abc import Callable
from pathlib import Path

import pytest

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_slots import FunctionAppTarget
from safe_deploy.errors import ConflictError
from safe_deploy.rollouts.slot_share import SlotShare
from safe_deploy.rollouts.slot_traffic import CHANGE_TIMEOUT_SECONDS, SlotTraffic
from safe_deploy.subprocesses import SignalGuard
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.fake_function_app import create_fake_function_app, path_of

TARGET = FunctionAppTarget(resource_group="shop-rg", function_app="shop", task_hub_setting="TASK_HUB")
RULE = {"name": "staging", "actionHostName": "shop-staging.azurewebsites.net", "reroutePercentage": 10}


class ScriptedGuard(SignalGuard):
    """A guard that does not sleep. It calls a function of the test instead, or without one, a signal comes."""

    def __init__(self, on_sleep: Callable[[], None] | None) -> None:
        super().__init__()
        self._on_sleep = on_sleep

    def sleep(self, seconds: float) -> None:
        """Call the function of the test, or let a signal come."""
        if self._on_sleep is None:
            self._signal_count += 1
        else:
            self._on_sleep()


class LateChangeGuard(SignalGuard):
    """A guard for which time passes at once. A change arrives when this much time has passed."""

    def __init__(self, arrive: Callable[[], None], seconds_late: float) -> None:
        super().__init__()
        self._arrive = arrive
        self._seconds_left = seconds_late

    def sleep(self, seconds: float) -> None:
        """Let time pass, and the change arrive when it is due."""
        is_awaited = self._seconds_left > 0
        self._seconds_left -= seconds
        if is_awaited and self._seconds_left <= 0:
            self._arrive()


@pytest.fixture
def fake_azure(tmp_path: Path) -> FakeAzure:
    """A fake `az` with an app whose slot staging gets 10 %."""
    fake_azure = create_fake_function_app(tmp_path)
    fake_azure.update_app("shop", rampUpRules=[RULE])
    return fake_azure


def make_share(fake_azure: FakeAzure, guard: SignalGuard, reports: list[str] | None = None) -> SlotShare:
    """The share of slot staging, as the CLI sets it."""
    traffic = SlotTraffic(TARGET, "staging", environment={"PATH": path_of(fake_azure)})
    return SlotShare(traffic, guard=guard, report=(reports if reports is not None else []).append)


def test_a_change_that_arrives_after_the_removal_is_removed_too(fake_azure: FakeAzure) -> None:
    late_changes = [[RULE]]

    def arrive() -> None:
        """Let the change of a killed job arrive while the removal is watched."""
        if late_changes:
            fake_azure.update_app("shop", rampUpRules=late_changes.pop())

    reports: list[str] = []
    assert make_share(fake_azure, ScriptedGuard(arrive), reports).clear()
    assert fake_azure.ramp_up_rules("shop") == []
    assert ["removing it once more" in report for report in reports] == [True]


@pytest.mark.parametrize("seconds_late", [1, 31, CHANGE_TIMEOUT_SECONDS])
def test_a_share_that_a_killed_job_had_requested_does_not_stay_in_azure(
    fake_azure: FakeAzure, seconds_late: float
) -> None:
    """The change arrives as late as it may after the removal was requested. No command looks at Azure later."""
    guard = LateChangeGuard(lambda: fake_azure.update_app("shop", rampUpRules=[RULE]), seconds_late)
    assert make_share(fake_azure, guard).clear()
    guard.sleep(CHANGE_TIMEOUT_SECONDS)
    assert fake_azure.ramp_up_rules("shop") == []


def test_a_share_that_always_comes_back_is_not_confirmed_as_removed(fake_azure: FakeAzure) -> None:
    guard = ScriptedGuard(lambda: fake_azure.update_app("shop", rampUpRules=[RULE]))
    with pytest.raises(ConflictError, match="came back each time: 10 % to slot staging"):
        make_share(fake_azure, guard).clear()


def test_a_share_that_has_come_back_stays_if_its_removal_is_prevented(fake_azure: FakeAzure) -> None:
    class OtherRolloutError(Exception):
        """The share is that of another rollout."""

    def prevent() -> None:
        """Prevent a change."""
        raise OtherRolloutError

    guard = ScriptedGuard(lambda: fake_azure.update_app("shop", rampUpRules=[RULE]))
    with pytest.raises(OtherRolloutError):
        make_share(fake_azure, guard).clear(before_repeat=prevent)
    assert fake_azure.ramp_up_rules("shop") == [RULE]


def test_a_share_is_not_set_if_that_is_prevented(fake_azure: FakeAzure) -> None:
    attempts: list[str] = []

    def prevent_second_attempt() -> None:
        """Prevent every attempt but the first."""
        attempts.append("attempt")
        if len(attempts) == 2:
            raise ConflictError("the share is not wanted any more")

    fake_azure.set_fault("resource patch")
    share = make_share(fake_azure, ScriptedGuard(lambda: None))
    with pytest.raises(ConflictError, match="not wanted any more"):
        share.set_share(50, before_change=prevent_second_attempt)
    assert fake_azure.count_calls("resource patch") == 1


def test_a_signal_ends_the_watching_but_not_the_removal(fake_azure: FakeAzure) -> None:
    assert not make_share(fake_azure, ScriptedGuard(None)).clear()
    assert fake_azure.ramp_up_rules("shop") == []


def test_a_call_that_fails_is_made_four_times_unless_a_signal_comes(fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("resource show")
    with pytest.raises(AzureUnavailable):
        make_share(fake_azure, ScriptedGuard(lambda: None)).observe()
    assert len(fake_azure.calls) == 4
    with pytest.raises(AzureUnavailable):
        make_share(fake_azure, ScriptedGuard(None)).observe()
    assert len(fake_azure.calls) == 6


def test_a_slot_that_does_not_exist_is_looked_for_once(fake_azure: FakeAzure) -> None:
    traffic = SlotTraffic(TARGET, "beta", environment={"PATH": path_of(fake_azure)})
    share = SlotShare(traffic, guard=ScriptedGuard(lambda: None), report=lambda line: None)
    with pytest.raises(AzureUnavailable, match="Azure has no slot 'beta'"):
        share.observe()
    assert len(fake_azure.calls) == 1
