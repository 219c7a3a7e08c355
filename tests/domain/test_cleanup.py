"""Cleanup: which retired task hubs the policy keeps, and how the others are forgotten."""

import pytest

from state_api.domain.readiness.policy import Policy, RetentionPolicy
from state_api.domain.releases.apps import App
from state_api.domain.releases.retirement import find_hubs_kept_by_retention
from tests.domain.builders import build_app, build_production_slot, build_retired_hub, noon_plus
from tests.domain.transitions import begin_swap_of_staged_hub, forget_retired_hubs

# Retention


def build_app_with_retention(retention: RetentionPolicy, *hours_ago: float) -> App:
    """An app with one retired task hub, `ago{hours}`, for each number of hours."""
    hubs = tuple(build_retired_hub(f"ago{hours:g}", hours) for hours in hours_ago)
    return build_app(policy=Policy(retention=retention), retired=hubs)


def test_without_a_retention_no_hub_is_kept() -> None:
    assert find_hubs_kept_by_retention(build_app_with_retention(RetentionPolicy(), 0, 1, 2), noon_plus()) == set()


def test_without_a_retention_not_even_a_hub_retired_ahead_of_the_clock_is_kept() -> None:
    assert find_hubs_kept_by_retention(build_app_with_retention(RetentionPolicy(), -1), noon_plus()) == set()


def test_the_last_retired_hubs_are_kept_in_any_order_of_the_list() -> None:
    app = build_app_with_retention(RetentionPolicy(keep_last=2), 3, 1, 9, 2)
    assert find_hubs_kept_by_retention(app, noon_plus()) == {"ago1", "ago2"}


def test_all_hubs_are_kept_if_fewer_are_retired_than_the_policy_keeps() -> None:
    assert find_hubs_kept_by_retention(build_app_with_retention(RetentionPolicy(keep_last=5), 1, 2), noon_plus()) == {
        "ago1",
        "ago2",
    }


@pytest.mark.parametrize(("seconds_later", "kept"), [(-0.0000001, {"ago24"}), (0, set()), (1, set())])
def test_a_hub_is_kept_for_the_hours_of_the_policy_and_no_longer(seconds_later: float, kept: set[str]) -> None:
    app = build_app_with_retention(RetentionPolicy(keep_for_hours=24), 24)
    assert find_hubs_kept_by_retention(app, noon_plus(seconds_later)) == kept


def test_a_hub_is_kept_if_it_was_retired_recently_or_among_the_last() -> None:
    app = build_app_with_retention(RetentionPolicy(keep_last=1, keep_for_hours=5), 2, 4, 6)
    assert find_hubs_kept_by_retention(app, noon_plus()) == {"ago2", "ago4"}
    assert find_hubs_kept_by_retention(app, noon_plus(3600 * 10)) == {"ago2"}


# Forgetting


def test_removed_hubs_are_forgotten_and_recorded() -> None:
    app = build_app(retired=(build_retired_hub("v38"), build_retired_hub("v39"), build_retired_hub("v40")))
    transition = forget_retired_hubs(app, ["V40", "v38"])
    assert transition.app.retired == (build_retired_hub("v39"),)
    assert transition.operation == "Cleanup"
    assert transition.details == {"removed": ["v38", "v40"]}
    assert transition.changed


@pytest.mark.parametrize("hubs", [[], ["v41"]], ids=["no hub", "a hub that is not retired"])
def test_removing_a_hub_that_is_not_retired_changes_nothing(hubs: list[str]) -> None:
    app = build_app(build_production_slot("v41"), retired=(build_retired_hub("v40"),))
    transition = forget_retired_hubs(app, hubs)
    assert transition.app == app
    assert not transition.changed


def test_forgetting_hubs_keeps_a_swap_pending() -> None:
    app = begin_swap_of_staged_hub(retired=(build_retired_hub("v40"),)).app
    transition = forget_retired_hubs(app, ["v40"])
    assert transition.app.retired == ()
    assert transition.app.pending_swap == app.pending_swap
