"""PostSwap and Cleanup: what changes places, and which retired hubs are kept or forgotten."""

from dataclasses import replace

import pytest

from state_api.domain.errors import InvalidRequest, SlotNotFound, SwapMismatch
from state_api.domain.readiness import Policy, Retention
from state_api.domain.releases import App, Slot, kept_by_retention, remove_retired, swap
from tests.domain.builders import ANNA, at, deploying, in_production, retired, shop, slot, staged

# Swap


def test_a_swap_exchanges_production_and_staging_and_closes_the_deployment() -> None:
    app = deploying(ANNA)
    transition = swap(app, "staging", "v42", at(60))
    assert transition.app == replace(
        app,
        slots={
            "production": Slot("v42", "1.5.0", at(60), promoted=True),
            "staging": Slot("v41", "1.4.0", at(60), promoted=True),
        },
        deployment=None,
    )
    assert transition.operation == "PostSwap"
    assert transition.details == {"slot": "staging", "production": "v42", "swappedOut": "v41"}
    assert transition.new_hubs == ()


def test_a_swap_into_an_empty_production_leaves_the_slot_empty() -> None:
    transition = swap(shop(None, slot("v42")), "staging", "v42", at())
    assert transition.app.slots == {"production": Slot("v42", None, at(), promoted=True), "staging": None}
    assert transition.details["swappedOut"] is None


def test_a_swap_is_done_when_production_holds_the_hub_already() -> None:
    app = swap(deploying(ANNA), "staging", "v42", at(60)).app
    transition = swap(app, "staging", "V42", at(120))
    assert transition.app is app
    assert not transition.changed


def test_a_rollback_is_a_swap_back() -> None:
    before = shop(in_production("v41"), slot("v42"))
    swapped = swap(before, "staging", "v42", at(60)).app
    back = swap(swapped, "staging", "v41", at(120)).app
    assert back.slot_of("v41") == "production"
    assert back.slot_of("v42") == "staging"
    assert back.slots["staging"] == Slot("v42", None, at(120), promoted=True)


def test_whatever_leaves_production_has_been_promoted() -> None:
    transition = swap(shop(slot("v41", promoted=False), slot("v42")), "staging", "v42", at())
    assert transition.app.slots["staging"] == Slot("v41", None, at(), promoted=True)


def test_a_swap_keeps_the_spelling_of_hub_and_slot() -> None:
    transition = swap(shop(more={"Canary": slot("OrdersV42")}), "CANARY", "ordersv42", at())
    assert transition.details == {"slot": "Canary", "production": "OrdersV42", "swappedOut": None}
    assert set(transition.app.slots) == {"production", "staging", "Canary"}


def test_a_swap_leaves_a_deployment_into_another_slot_open() -> None:
    app = staged(shop(in_production(), more={"canary": slot("v43")})).app
    transition = swap(app, "canary", "v43", at(60))
    assert transition.app.deployment == app.deployment
    assert transition.app.open_deployment(at(60)) is not None


def test_a_swap_leaves_the_other_slots_alone() -> None:
    canary = slot("v43")
    transition = swap(shop(in_production(), slot("v42"), more={"canary": canary}), "staging", "v42", at())
    assert transition.app.slots["canary"] is canary


def test_a_swap_promotes_only_the_hub_that_the_caller_believes_in_the_slot() -> None:
    with pytest.raises(SwapMismatch, match=r"^slot staging of app shop does not hold task hub v43 but v42$") as caught:
        swap(deploying(ANNA), "STAGING", "v43", at(60))
    assert caught.value.details == {"taskHub": "v43", "slots": {"production": "v41", "staging": "v42"}}


def test_a_swap_with_an_empty_slot_is_a_mismatch() -> None:
    with pytest.raises(SwapMismatch, match="does not hold task hub v42 but nothing"):
        swap(shop(in_production()), "staging", "v42", at())


@pytest.mark.parametrize("name", ["production", "PRODUCTION"])
def test_production_is_not_swapped_with_itself(name: str) -> None:
    with pytest.raises(InvalidRequest, match="not with itself"):
        swap(shop(in_production("v41")), name, "v41", at())


def test_a_swap_with_a_slot_that_does_not_exist_says_so() -> None:
    with pytest.raises(SlotNotFound, match="it has production, staging"):
        swap(shop(in_production()), "canary", "v42", at())


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
