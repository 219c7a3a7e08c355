"""Exemptions: functions by pattern, instances by waivers in force."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state_api.domain.readiness.exemptions import Exemptions, Waiver
from tests.domain.builders import build_waiver, noon_plus

FUNCTIONS = st.lists(st.sampled_from(["NightlySync", "Nightly*", "a", "b", "a', 'b", ""]), max_size=4).map(tuple)
WAIVERS = st.lists(
    st.builds(
        build_waiver,
        st.sampled_from(["order-1", "order-2", "a", "b", "a', 'b", ""]),
        st.sampled_from(["v41", "V41", "v42"]),
        st.sampled_from([-1, 0, 0.0000001, 60]),
    ),
    max_size=4,
).map(tuple)


def find_waivers_in_force(*waivers: Waiver, task_hub: str = "v41", now: float = 0) -> tuple[Waiver, ...]:
    """The waivers that are in force for a task hub `now` seconds after noon."""
    return Exemptions.for_task_hub((), waivers, task_hub, noon_plus(now)).waivers


def compute_exemptions_key(*functions: str, waivers: tuple[Waiver, ...] = ()) -> str:
    return Exemptions(functions, waivers).key


# Functions


@pytest.mark.parametrize(
    ("pattern", "ignored"),
    [
        ("NightlySync", True),
        ("Nightly*", True),
        ("*", True),
        ("NightlySyn?", True),
        ("Nightly[A-Z]ync", True),
        ("nightlysync", False),
        ("Nightly", False),
        ("NightlySync?", False),
        ("[!N]ightlySync", False),
        ("", False),
    ],
)
def test_a_function_is_ignored_if_a_pattern_matches_its_whole_name(pattern: str, *, ignored: bool) -> None:
    exemptions = Exemptions(("Heartbeat", pattern))
    assert exemptions.ignores("NightlySync") is ignored
    assert exemptions.exempts("NightlySync", "order-1") is ignored


def test_nothing_is_exempt_by_default() -> None:
    assert not Exemptions().ignores("NightlySync")
    assert Exemptions().find_waiver("order-1") is None
    assert not Exemptions().exempts("NightlySync", "order-1")


def test_a_function_without_a_name_is_ignored_only_by_a_pattern_that_matches_every_name() -> None:
    assert Exemptions(("*",)).ignores("")
    assert not Exemptions(("?*", "NightlySync")).ignores("")


# Waivers in force


@pytest.mark.parametrize(("now", "is_in_force"), [(-60, True), (59.9999999, True), (60, False), (60.0000001, False)])
def test_a_waiver_is_in_force_until_the_tick_at_which_it_expires(now: float, *, is_in_force: bool) -> None:
    waived = build_waiver(expires=60)
    assert find_waivers_in_force(waived, now=now) == ((waived,) if is_in_force else ())


@pytest.mark.parametrize(("task_hub", "is_in_force"), [("v41", True), ("V41", True), ("v4", False), ("v411", False)])
def test_a_waiver_is_in_force_for_its_task_hub_in_any_case_and_for_no_other(
    task_hub: str, *, is_in_force: bool
) -> None:
    waived = build_waiver(task_hub="v41")
    assert find_waivers_in_force(waived, task_hub=task_hub) == ((waived,) if is_in_force else ())


def test_only_waivers_in_force_for_this_task_hub_exempt() -> None:
    other, expired, lasting = (
        build_waiver("order-1", "v42"),
        build_waiver("order-2", expires=0),
        build_waiver("order-3", "V41"),
    )
    exemptions = Exemptions.for_task_hub(("NightlySync",), [other, expired, lasting], "v41", noon_plus())
    assert exemptions == Exemptions(("NightlySync",), (lasting,))
    exempt = [exemptions.exempts("ProcessOrder", f"order-{number}") for number in (1, 2, 3)]
    assert exempt == [False, False, True]


@pytest.mark.parametrize("instance_id", ["Order-1", "order-1 ", "order-", "order-*", ""])
def test_a_waiver_is_for_one_instance_id_in_its_exact_spelling(instance_id: str) -> None:
    assert Exemptions((), (build_waiver("order-1"),)).find_waiver(instance_id) is None
    assert Exemptions((), (build_waiver(instance_id),)).find_waiver("order-1") is None


def test_the_waiver_of_an_instance_is_found_among_others() -> None:
    second = build_waiver("order-2")
    exemptions = Exemptions((), (build_waiver("order-1"), second, build_waiver("order-3")))
    assert exemptions.find_waiver("order-2") is second
    assert exemptions.exempts("ProcessOrder", "order-2")
    assert not exemptions.ignores("order-2")


@given(FUNCTIONS, WAIVERS)
def test_an_instance_is_exempt_exactly_if_it_is_ignored_or_waived(
    functions: tuple[str, ...], waivers: tuple[Waiver, ...]
) -> None:
    exemptions = Exemptions.for_task_hub(functions, waivers, "v41", noon_plus())
    waived = {
        waiver.instance_id for waiver in waivers if waiver.task_hub.lower() == "v41" and waiver.expires_at > noon_plus()
    }
    for instance_id in ["order-1", "order-2", "a", ""]:
        for name in ["NightlySync", "ProcessOrder", ""]:
            ignored = exemptions.ignores(name)
            assert exemptions.exempts(name, instance_id) is (ignored or instance_id in waived)


# Keys


@given(FUNCTIONS, WAIVERS, FUNCTIONS, WAIVERS)
def test_the_key_is_the_same_exactly_if_the_same_functions_and_instances_are_exempt(
    functions: tuple[str, ...],
    waivers: tuple[Waiver, ...],
    other_functions: tuple[str, ...],
    other_waivers: tuple[Waiver, ...],
) -> None:
    same_functions = set(functions) == set(other_functions)
    same_instances = {waiver.instance_id for waiver in waivers} == {waiver.instance_id for waiver in other_waivers}
    same_key = compute_exemptions_key(*functions, waivers=waivers) == compute_exemptions_key(
        *other_functions, waivers=other_waivers
    )
    assert same_key is (same_functions and same_instances)


def test_the_key_depends_neither_on_order_nor_on_repetition() -> None:
    first, other = build_waiver("order-1"), build_waiver("order-2")
    assert compute_exemptions_key("Monitor", "Sync", waivers=(first, other)) == compute_exemptions_key(
        "Sync", "Monitor", "Sync", waivers=(other, first, first)
    )


def test_the_key_distinguishes_functions_from_instances() -> None:
    assert (
        len(
            {
                compute_exemptions_key(),
                compute_exemptions_key("a"),
                compute_exemptions_key(waivers=(build_waiver("a"),)),
                compute_exemptions_key("a", "b"),
                compute_exemptions_key("a', 'b"),
            }
        )
        == 5
    )


def test_a_renewed_waiver_does_not_change_the_key() -> None:
    short = build_waiver()
    longer = replace(short, reason="still stuck", by="ben", created_at=noon_plus(60), expires_at=noon_plus(7200))
    assert compute_exemptions_key(waivers=(short,)) == compute_exemptions_key(waivers=(longer,))


def test_the_key_changes_when_a_waiver_expires() -> None:
    expiring = build_waiver(expires=60)
    assert (
        Exemptions.for_task_hub((), [expiring], "v41", noon_plus(59)).key
        != Exemptions.for_task_hub((), [expiring], "v41", noon_plus(60)).key
    )
