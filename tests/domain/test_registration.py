"""PutApp: new slots, corrections, the policy, the provider, and what is refused because work is running."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from state_api.domain.errors import (
    DeploymentInProgress,
    InvalidRequest,
    StagingNotReady,
    TaskHubAlreadyUsed,
    TaskHubInUse,
)
from state_api.domain.names import hub_key
from state_api.domain.readiness.policy import Policy, RetentionPolicy
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, ProviderConfig, RetiredHub, Slot, Transition
from state_api.domain.releases.registration import find_replaced_slots
from tests.domain.builders import (
    ANNA,
    PROVIDER_CONFIG,
    build_app,
    build_not_ready_verdict,
    build_production_slot,
    build_ready_verdict,
    build_retired_hub,
    build_slot,
    noon_plus,
)
from tests.domain.transitions import build_app_with_open_deployment, build_register_command, register, stage_new_hub

SlotRequest = tuple[str, str | None] | None


def register_slots(
    app: App,
    slots: dict[str, SlotRequest] | None = None,
    verdict: Verdict | None = None,
    used: tuple[str, ...] = (),
    now: float = 0,
) -> Transition:
    """Register these slots. What they replace has drained, unless `verdict` says otherwise."""
    registration = build_register_command(slots or {})
    verdicts = {name: verdict or build_ready_verdict() for name in find_replaced_slots(app, registration)}
    return register(
        app, registration, verdicts=verdicts, used_hub_keys=frozenset(hub_key(hub) for hub in used), now=noon_plus(now)
    )


def register_policy(app: App, policy: Policy) -> Transition:
    return register(app, build_register_command(update_policy=lambda _: policy))


# New slots


def test_a_hub_registered_in_production_counts_as_promoted() -> None:
    transition = register_slots(App("shop"), {"production": ("v41", "1.4.0")})
    assert transition.app.slots == {"production": Slot("v41", "1.4.0", noon_plus(), promoted=True), "staging": None}
    assert transition.operation == "PutApp"
    assert transition.new_hubs == ("v41",)
    assert transition.details == {"slots": {"production": {"taskHub": "v41", "version": "1.4.0"}}}
    assert transition.app.retired == ()


def test_the_name_production_is_case_insensitive() -> None:
    transition = register_slots(build_app(), {"PRODUCTION": ("v41", None)})
    assert transition.app.slots == {"production": Slot("v41", None, noon_plus(), promoted=True), "staging": None}


def test_a_hub_registered_in_another_slot_is_not_promoted_and_opens_no_deployment() -> None:
    transition = register_slots(build_app(), {"staging": ("v42", None)})
    assert transition.app.slots["staging"] == Slot("v42", None, noon_plus())
    assert transition.app.deployment is None


def test_registering_an_unknown_slot_adds_it_with_or_without_a_hub() -> None:
    transition = register_slots(build_app(), {"Canary": ("v43", None), "qa": None})
    assert list(transition.app.slots) == ["production", "staging", "Canary", "qa"]
    assert transition.details["slots"] == {"Canary": {"taskHub": "v43", "version": None}, "qa": None}
    assert transition.new_hubs == ("v43",)


def test_slots_that_a_registration_does_not_name_stay_as_they_are() -> None:
    production = build_production_slot()
    assert register_slots(build_app(production), {"staging": ("v42", None)}).app.slots["production"] is production


def test_the_first_registration_is_written_even_without_content() -> None:
    transition = register_slots(App("shop"))
    assert transition.changed
    assert transition.details == {}


def test_registering_the_present_state_changes_nothing() -> None:
    app = build_app(build_production_slot("v41", "1.4.0"), provider_config=PROVIDER_CONFIG)
    registration = build_register_command(
        {"Production": ("V41", "1.4.0"), "staging": None}, provider_config=PROVIDER_CONFIG
    )
    transition = register(app, registration, used_hub_keys=frozenset({hub_key("v41")}))
    assert not transition.changed
    assert transition.app == app
    assert transition.details == {}
    assert transition.new_hubs == ()


def test_registering_the_same_hub_with_another_version_corrects_only_the_version() -> None:
    transition = register_slots(build_app(build_production_slot("v41", "1.4.0")), {"production": ("v41", "1.4.1")})
    assert transition.changed
    assert transition.app.slots["production"] == build_production_slot("v41", "1.4.1")
    assert transition.app.retired == ()
    assert transition.new_hubs == ()


def test_a_registration_without_a_version_keeps_the_version() -> None:
    assert not register_slots(build_app(build_production_slot("v41", "1.4.0")), {"production": ("v41", None)}).changed


# Slots that lose their task hub


def test_a_slot_is_replaced_if_it_gets_another_hub_or_none() -> None:
    app = build_app(
        build_production_slot("v41"), build_slot("v42"), more_slots={"Canary": build_slot("v43"), "qa": None}
    )
    slots: dict[str, SlotRequest] = {
        "production": ("V41", "1.4.1"),
        "STAGING": None,
        "canary": ("v44", None),
        "qa": ("v45", None),
        "new": ("v46", None),
    }
    assert find_replaced_slots(app, build_register_command(slots)) == ("staging", "Canary")


def test_a_drained_hub_is_replaced_and_retired() -> None:
    transition = register_slots(
        build_app(build_production_slot("v41", "1.4.0"), retired=(build_retired_hub("v40"),)),
        {"production": ("v42", None)},
    )
    assert transition.app.slots["production"] == Slot("v42", None, noon_plus(), promoted=True)
    assert transition.app.retired == (build_retired_hub("v40"), RetiredHub("v41", "1.4.0", noon_plus()))


def test_a_drained_slot_is_emptied_and_its_hub_retired() -> None:
    transition = register_slots(build_app(staging=build_slot("v42")), {"staging": None})
    assert transition.app.slots["staging"] is None
    assert transition.app.retired == (RetiredHub("v42", None, noon_plus()),)
    assert transition.details == {"slots": {"staging": None}, "retired": ["v42"]}


def test_a_longer_timeout_does_not_reopen_an_expired_deployment() -> None:
    app = stage_new_hub(build_app()).app
    later = noon_plus(2 * 3600)
    longer = register(
        app,
        build_register_command(update_policy=lambda policy: replace(policy, deployment_timeout_minutes=1440)),
        now=later,
    ).app
    assert longer.get_open_deployment(later) is None


@pytest.mark.parametrize("slot_request", [("v42", None), None], ids=["replaced", "emptied"])
def test_a_hub_that_has_not_drained_is_not_taken_out_of_its_slot(slot_request: SlotRequest) -> None:
    with pytest.raises(StagingNotReady, match="slot production of app shop must not be overwritten: 1 orch") as caught:
        register_slots(
            build_app(build_production_slot("v41")), {"production": slot_request}, build_not_ready_verdict("v41")
        )
    assert caught.value.details["reasons"][0]["code"] == "InstancesActive"


@pytest.mark.parametrize("slot_request", [("v43", None), None], ids=["replaced", "emptied"])
def test_a_hub_with_an_open_deployment_is_not_taken_out_of_its_slot(slot_request: SlotRequest) -> None:
    with pytest.raises(DeploymentInProgress) as caught:
        register_slots(build_app_with_open_deployment(ANNA), {"staging": slot_request}, now=60)
    assert caught.value.details["deployment"]["taskHub"] == "v42"


def test_a_hub_can_be_taken_out_of_its_slot_after_its_deployment_has_expired() -> None:
    assert (
        register_slots(build_app_with_open_deployment(ANNA), {"staging": None}, now=3600).app.slots["staging"] is None
    )


def test_an_open_deployment_does_not_protect_another_slot() -> None:
    app = stage_new_hub(build_app(more_slots={"canary": build_slot("v40")})).app
    transition = register_slots(app, {"canary": None}, now=60)
    assert transition.app.slots["canary"] is None
    assert transition.app.deployment == app.deployment


def test_the_version_of_a_hub_can_be_corrected_during_its_deployment() -> None:
    app = register_slots(build_app_with_open_deployment(ANNA), {"staging": ("v42", "1.5.1")}, now=60).app
    assert app.slots["staging"] == Slot("v42", "1.5.1", noon_plus())
    assert app.get_open_deployment(noon_plus(60)) is not None


# Task hubs must be new


def test_registering_one_hub_in_two_slots_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="V41 cannot be in two slots"):
        register_slots(App("shop"), {"production": ("v41", None), "staging": ("V41", None)})


def test_registering_a_hub_that_another_slot_holds_is_refused() -> None:
    with pytest.raises(TaskHubInUse, match="slot production"):
        register_slots(build_app(build_production_slot("v41")), {"staging": ("v41", None)})


def test_a_registration_cannot_move_a_hub_to_another_slot() -> None:
    with pytest.raises(TaskHubInUse):
        register_slots(build_app(staging=build_slot("v42")), {"staging": None, "canary": ("v42", None)})


@pytest.mark.parametrize("name", ["v40", "V40"])
def test_registering_a_retired_hub_is_refused(name: str) -> None:
    with pytest.raises(TaskHubAlreadyUsed):
        register_slots(build_app(retired=(build_retired_hub("v40"),)), {"staging": (name, None)})


def test_registering_a_hub_that_an_app_used_before_is_refused() -> None:
    with pytest.raises(TaskHubAlreadyUsed):
        register_slots(build_app(), {"staging": ("V42", None)}, used=("v42",))


def test_a_registration_is_not_refused_for_hubs_that_it_does_not_name() -> None:
    assert register_slots(build_app(), {"staging": ("v42", None)}, used=("v40",)).app.slot_holding("v42") == "staging"


# Policy and provider


def test_a_changed_retention_is_recorded_with_the_member_names_of_the_api() -> None:
    transition = register_policy(build_app(), Policy(retention=RetentionPolicy(keep_last=1, keep_for_hours=24)))
    assert transition.details == {"policy": {"retention": {"keepLast": 1, "keepForHours": 24}}}


def test_a_changed_policy_is_recorded_with_the_changed_members_only() -> None:
    policy = Policy(settle_seconds=60, ignore_functions=("NightlySync",))
    transition = register_policy(build_app(build_production_slot()), policy)
    assert transition.app.policy == policy
    assert transition.details == {"policy": {"settleSeconds": 60, "ignoreFunctions": ("NightlySync",)}}
    assert transition.changed


def test_a_change_of_missing_task_hub_is_drained_is_recorded() -> None:
    transition = register_policy(build_app(), Policy(missing_task_hub_is_drained=True))
    assert transition.details == {"policy": {"missingTaskHubIsDrained": True}}


def test_the_new_policy_is_derived_from_the_present_one() -> None:
    app = build_app(policy=Policy(settle_seconds=60, freshness_seconds=90))
    stricter = build_register_command(update_policy=lambda policy: replace(policy, require_verification=True))
    transition = register(app, stricter)
    assert transition.app.policy == Policy(60, 90, require_verification=True)
    assert transition.details == {"policy": {"requireVerification": True}}


def test_an_unchanged_policy_changes_nothing() -> None:
    assert not register_policy(build_app(), Policy()).changed


def test_a_new_provider_is_recorded_with_the_name_of_its_setting() -> None:
    transition = register(build_app(), build_register_command(provider_config=PROVIDER_CONFIG))
    assert transition.app.provider_config == PROVIDER_CONFIG
    assert transition.details == {
        "taskHubs": {
            "provider": "azureStorage",
            "connection": "STATE_TASKHUBS_SHOP",
            "trackingConnection": None,
            "trackingPrefix": None,
        }
    }
    assert transition.changed


def test_a_separate_tracking_store_is_recorded() -> None:
    source = replace(PROVIDER_CONFIG, tracking_connection="STATE_TASKHUBS_TRACKING", tracking_prefix="Orders")
    transition = register(build_app(provider_config=PROVIDER_CONFIG), build_register_command(provider_config=source))
    assert transition.app.provider_config == source
    assert transition.changed
    assert transition.details == {
        "taskHubs": {
            "provider": "azureStorage",
            "connection": "STATE_TASKHUBS_SHOP",
            "trackingConnection": "STATE_TASKHUBS_TRACKING",
            "trackingPrefix": "Orders",
        }
    }


def test_a_provider_config_without_tracking_members_has_no_tracking_store() -> None:
    stored = b'{"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"}'
    assert TypeAdapter(ProviderConfig).validate_json(stored) == PROVIDER_CONFIG


def test_a_registration_can_change_the_provider() -> None:
    other = ProviderConfig("azureManaged", "SCHEDULER")
    transition = register(build_app(provider_config=PROVIDER_CONFIG), build_register_command(provider_config=other))
    assert transition.app.provider_config == other
    assert transition.details["taskHubs"]["provider"] == "azureManaged"
    assert transition.details["taskHubs"]["connection"] == "SCHEDULER"


def test_a_registration_without_a_provider_keeps_the_present_one() -> None:
    assert register_slots(build_app(provider_config=PROVIDER_CONFIG)).app.provider_config == PROVIDER_CONFIG


def test_a_registration_can_clear_the_provider() -> None:
    transition = register(
        build_app(provider_config=PROVIDER_CONFIG), build_register_command(clear_provider_config=True)
    )
    assert transition.app.provider_config is None
    assert transition.details == {"taskHubs": None}
    assert transition.changed


# Looking up slots


def test_a_slot_is_looked_up_without_regard_to_case() -> None:
    app = build_app(build_production_slot("v41"))
    assert app.slot("PRODUCTION") == build_production_slot("v41")
    assert app.slot("staging") is None
    assert app.registered_slot_name("Staging") == "staging"
    assert app.registered_slot_name("Canary") == "Canary"


def test_the_slot_that_holds_a_hub_is_found_without_regard_to_case() -> None:
    app = build_app(build_production_slot("v41"))
    assert app.slot_holding("V41") == "production"
    assert app.slot_holding("v42") is None
