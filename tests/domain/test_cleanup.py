"""Cleanup: which retired hubs are kept, and how the others are forgotten."""

import pytest

from state_api.domain.apps import App
from state_api.domain.readiness import Policy, Retention
from state_api.domain.releases import kept_by_retention, remove_retired
from tests.domain.builders import at, begun, in_production, retired, shop

# Retention


def with_retention(retention: Retention, *hours_ago: float) -> App:
    """Hubs that were retired so many hours ago, named after that."""
    hubs = tuple(retired(f"ago{hours:g}", hours) for hours in hours_ago)
    return shop(policy=Policy(retention=retention), retired=hubs)


def test_without_a_retention_nothing_is_kept() -> None:
    assert kept_by_retention(with_retention(Retention(), 0, 1, 2), at()) == set()


def test_without_a_retention_not_even_a_hub_retired_ahead_of_the_clock_is_kept() -> None:
    assert kept_by_retention(with_retention(Retention(), -1), at()) == set()


def test_the_youngest_hubs_are_kept_in_whatever_order_they_were_retired() -> None:
    app = with_retention(Retention(keep_last=2), 3, 1, 9, 2)
    assert kept_by_retention(app, at()) == {"ago1", "ago2"}


def test_all_hubs_are_kept_where_fewer_are_retired_than_the_policy_keeps() -> None:
    assert kept_by_retention(with_retention(Retention(keep_last=5), 1, 2), at()) == {"ago1", "ago2"}


@pytest.mark.parametrize(("seconds_later", "kept"), [(-0.0000001, {"ago24"}), (0, set()), (1, set())])
def test_a_hub_is_kept_for_the_hours_of_the_policy_and_no_longer(seconds_later: float, kept: set[str]) -> None:
    app = with_retention(Retention(keep_for_hours=24), 24)
    assert kept_by_retention(app, at(seconds_later)) == kept


def test_a_hub_is_kept_if_it_is_young_or_among_the_last() -> None:
    app = with_retention(Retention(keep_last=1, keep_for_hours=5), 2, 4, 6)
    assert kept_by_retention(app, at()) == {"ago2", "ago4"}
    assert kept_by_retention(app, at(3600 * 10)) == {"ago2"}


# Forgetting


def test_removed_hubs_are_forgotten_and_on_record() -> None:
    app = shop(retired=(retired("v38"), retired("v39"), retired("v40")))
    transition = remove_retired(app, ["V40", "v38"])
    assert transition.app.retired == (retired("v39"),)
    assert transition.operation == "Cleanup"
    assert transition.details == {"removed": ["v38", "v40"]}
    assert transition.changed


@pytest.mark.parametrize("hubs", [[], ["v41"]], ids=["none", "one that is not retired"])
def test_removing_what_is_not_retired_changes_nothing(hubs: list[str]) -> None:
    app = shop(in_production("v41"), retired=(retired("v40"),))
    transition = remove_retired(app, hubs)
    assert transition.app == app
    assert not transition.changed


def test_hubs_are_forgotten_while_a_swap_is_pending_and_it_stays_so() -> None:
    app = begun(retired=(retired("v40"),)).app
    transition = remove_retired(app, ["v40"])
    assert transition.app.retired == ()
    assert transition.app.pending_swap == app.pending_swap
