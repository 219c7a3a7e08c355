"""PostWaiver and DeleteWaiver: what may be waived, for how long, and what is recorded."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from state_api.domain.errors import InvalidRequest, TaskHubNotFound, WaiverNotFound
from state_api.domain.instants import Instant
from state_api.domain.names import hub_key
from state_api.domain.readiness.exemptions import Exemptions, Waiver
from state_api.domain.releases.apps import App
from state_api.domain.releases.waivers import MAX_WAIVER_DAYS, MAX_WAIVERS
from tests.domain.builders import (
    build_app,
    build_production_slot,
    build_retired_hub,
    build_slot,
    build_waiver,
    noon_plus,
)
from tests.domain.transitions import delete_waiver, forget_retired_hubs, post_waiver

DAY_SECONDS = 86_400


def build_app_with_waivers(*waivers: Waiver) -> App:
    """An app with v41 in production, v42 in staging, v40 retired, and these waivers."""
    return build_app(
        build_production_slot("v41"), build_slot("v42"), retired=(build_retired_hub("v40"),), waivers=waivers
    )


# Adding a waiver


def test_a_waiver_is_added_and_recorded() -> None:
    transition = post_waiver(build_app_with_waivers(), build_waiver("order/1"))
    assert transition.app == build_app_with_waivers(build_waiver("order/1"))
    assert transition.operation == "PostWaiver"
    assert transition.details == {
        "taskHub": "v41",
        "instanceId": "order/1",
        "expiresAt": "2026-11-20T13:00:00.0000000Z",
    }
    assert transition.changed
    assert transition.new_hubs == ()


@pytest.mark.parametrize("task_hub", ["v41", "V41", "v42", "v40", "V40"])
def test_a_waiver_can_be_for_a_hub_in_a_slot_or_a_retired_one(task_hub: str) -> None:
    new = build_waiver(task_hub=task_hub)
    assert post_waiver(build_app_with_waivers(), new).app.waivers == (new,)


def test_a_new_waiver_keeps_the_others() -> None:
    others = build_waiver("order-2"), build_waiver("order-1", "v42")
    transition = post_waiver(build_app_with_waivers(*others), build_waiver("order-1", "v41"))
    assert transition.app.waivers == (*others, build_waiver("order-1", "v41"))


@pytest.mark.parametrize("task_hub", ["v41", "V41"])
def test_a_second_waiver_of_an_instance_replaces_the_first(task_hub: str) -> None:
    former, other = build_waiver("order-1"), build_waiver("order-2")
    again = replace(build_waiver("order-1", task_hub, 7200), reason="still stuck", by="ben")
    assert post_waiver(build_app_with_waivers(former, other), again).app.waivers == (other, again)


def test_instance_ids_are_case_sensitive() -> None:
    assert len(post_waiver(build_app_with_waivers(build_waiver("order-1")), build_waiver("Order-1")).app.waivers) == 2


def test_adding_a_waiver_removes_the_expired_ones() -> None:
    expired, just_expired, lasting = (
        build_waiver("a", expires=-60),
        build_waiver("b", expires=0),
        build_waiver("c", expires=0.0000001),
    )
    assert post_waiver(build_app_with_waivers(expired, just_expired, lasting), build_waiver()).app.waivers == (
        lasting,
        build_waiver(),
    )


@pytest.mark.parametrize("reason", ["", " ", "\n\t"])
def test_a_waiver_without_a_reason_is_refused(reason: str) -> None:
    with pytest.raises(InvalidRequest, match="a waiver goes into the audit log: send a reason"):
        post_waiver(build_app_with_waivers(), replace(build_waiver(), reason=reason))


def test_an_entity_needs_no_waiver() -> None:
    with pytest.raises(InvalidRequest, match=r"names an entity\. Entities never block"):
        post_waiver(build_app_with_waivers(), build_waiver("@counter@order-1"))


@pytest.mark.parametrize(
    "expires", [-DAY_SECONDS, 0, MAX_WAIVER_DAYS * DAY_SECONDS + 0.0000001, 10 * MAX_WAIVER_DAYS * DAY_SECONDS]
)
def test_a_waiver_that_has_expired_or_lasts_too_long_is_refused(expires: float) -> None:
    with pytest.raises(InvalidRequest, match="expiresAt must be in the future, and at most 90 days"):
        post_waiver(build_app_with_waivers(), build_waiver(expires=expires))


@pytest.mark.parametrize("expires", [0.0000001, MAX_WAIVER_DAYS * DAY_SECONDS])
def test_a_waiver_lasts_from_one_tick_to_ninety_days(expires: float) -> None:
    assert post_waiver(build_app_with_waivers(), build_waiver(expires=expires)).changed


@pytest.mark.parametrize("app", [build_app(), build_app_with_waivers()], ids=["empty", "of other hubs"])
def test_a_waiver_for_a_hub_of_no_slot_is_refused(app: App) -> None:
    with pytest.raises(
        TaskHubNotFound, match="no slot or release of app shop holds task hub v43, and it is not retired"
    ) as caught:
        post_waiver(app, build_waiver(task_hub="v43"))
    assert caught.value.details == {"taskHub": "v43"}


def test_an_app_has_a_limited_number_of_waivers() -> None:
    almost_full = build_app_with_waivers(*(build_waiver(f"order-{number}") for number in range(MAX_WAIVERS - 1)))
    full = post_waiver(almost_full, build_waiver("one-more")).app
    assert len(full.waivers) == MAX_WAIVERS
    with pytest.raises(InvalidRequest, match=r"app shop already has 100 waivers\. Find out"):
        post_waiver(full, build_waiver("too-many"))


def test_a_waiver_can_be_replaced_at_the_limit() -> None:
    full = build_app_with_waivers(*(build_waiver(f"order-{number}") for number in range(MAX_WAIVERS)))
    longer = build_waiver("order-7", expires=7200)
    assert post_waiver(full, longer).app.waivers[-1] == longer


def test_expired_waivers_do_not_count_towards_the_limit() -> None:
    full = build_app_with_waivers(*(build_waiver(f"order-{number}", expires=-60) for number in range(MAX_WAIVERS)))
    assert post_waiver(full, build_waiver()).app.waivers == (build_waiver(),)


# Removing a waiver


@pytest.mark.parametrize("task_hub", ["v41", "V41"])
def test_a_waiver_is_removed_without_regard_to_the_case_of_the_hub_name(task_hub: str) -> None:
    others = build_waiver("order-2"), build_waiver("order-1", "v42")
    transition = delete_waiver(build_app_with_waivers(build_waiver("order-1"), *others), task_hub, "order-1")
    assert transition.app == build_app_with_waivers(*others)
    assert transition.operation == "DeleteWaiver"
    assert transition.details == {"taskHub": task_hub, "instanceId": "order-1"}
    assert transition.changed


def test_an_expired_waiver_can_be_removed() -> None:
    assert delete_waiver(build_app_with_waivers(build_waiver(expires=-60)), "v41", "order-1").app.waivers == ()


@pytest.mark.parametrize(("task_hub", "instance_id"), [("v42", "order-1"), ("v41", "Order-1"), ("v43", "order-1")])
def test_removing_a_waiver_that_does_not_exist_is_refused(task_hub: str, instance_id: str) -> None:
    with pytest.raises(WaiverNotFound, match=f"app shop has no waiver .* of task hub {task_hub}. GetApp") as caught:
        delete_waiver(build_app_with_waivers(build_waiver("order-1")), task_hub, instance_id)
    assert caught.value.details == {"taskHub": task_hub, "instanceId": instance_id}


# Sequences

WAIVER_COMMANDS = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(["v41", "V41", "v42"]), st.integers(1, 3), st.booleans()
)


@given(st.lists(WAIVER_COMMANDS, max_size=8))
def test_the_last_waiver_of_an_instance_is_in_force_until_it_is_removed_or_expires(
    commands: list[tuple[str, str, int, bool]],
) -> None:
    app = build_app_with_waivers()
    expected: dict[tuple[str, str], Instant] = {}
    for now, (instance_id, task_hub, duration, is_added) in enumerate(commands):
        key = (hub_key(task_hub), instance_id)
        if is_added:
            app = post_waiver(app, build_waiver(instance_id, task_hub, now + duration), noon_plus(now)).app
            expected[key] = noon_plus(now + duration)
        elif any((hub_key(existing.task_hub), existing.instance_id) == key for existing in app.waivers):
            app = delete_waiver(app, task_hub, instance_id).app
            del expected[key]
        for hub in ("v41", "v42"):
            in_force = Exemptions.for_task_hub((), app.waivers, hub, noon_plus(now)).waivers
            assert {waived.instance_id: waived.expires_at for waived in in_force} == {
                waived_id: expires_at
                for (task_hub_key, waived_id), expires_at in expected.items()
                if task_hub_key == hub and expires_at > noon_plus(now)
            }
            assert len({waived.instance_id for waived in in_force}) == len(in_force)


# Waivers of a forgotten task hub, and stored waivers


def test_the_waivers_of_a_hub_are_forgotten_with_the_hub() -> None:
    kept = build_waiver("order-1", "v41"), build_waiver("order-2", "v42")
    app = build_app_with_waivers(build_waiver("order-1", "V40"), *kept, build_waiver("order-3", "v40"))
    transition = forget_retired_hubs(app, ["v40"])
    assert transition.app.retired == ()
    assert transition.app.waivers == kept
    assert transition.details == {"removed": ["v40"]}


def test_removing_no_hub_keeps_every_waiver() -> None:
    app = build_app_with_waivers(build_waiver("order-1", "v40"), build_waiver("order-2"))
    assert forget_retired_hubs(app, []).app == app


STORED = TypeAdapter(App)


def test_an_app_without_the_member_waivers_has_none() -> None:
    stored = (
        b'{"name": "shop", "slots": {"production": {"task_hub": "v41", "version": null, "since": 0}}, "revision": 3}'
    )
    app = STORED.validate_json(stored)
    assert app.waivers == ()
    assert app.slot_holding("v41") == "production"
    assert not app.policy.missing_task_hub_is_drained


def test_an_app_with_waivers_survives_a_round_trip_through_json() -> None:
    app = build_app_with_waivers(build_waiver("naïve/№ 1"), build_waiver("order-2", "v42"))
    assert STORED.validate_json(STORED.dump_json(app)) == app
