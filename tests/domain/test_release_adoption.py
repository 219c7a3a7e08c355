"""PutApp for releases side by side: the model, adopted releases, and the move from slots."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from state_api.domain.errors import (
    AddressNotAllowed,
    AppNotDrained,
    DeploymentInProgress,
    InvalidRequest,
    ReleaseExists,
    ReleaseInUse,
    ReleaseNotDrained,
    StagingNotReady,
    StateError,
    SwapPending,
    TaskHubAlreadyUsed,
    TaskHubInUse,
    TooManyReleases,
    WrongModel,
)
from state_api.domain.names import HubKey
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.readiness.waiting import NO_END
from state_api.domain.releases.apps import App, PriorHub, ProviderConfig, RetiredHub, Transition
from state_api.domain.releases.commands import RegisterCommand, ReleaseAssignment
from state_api.domain.releases.deletion import DeletionEvidence, delete_app
from state_api.domain.releases.registration import RegisterEvidence, find_replaced_slots, register_app
from state_api.domain.releases.side_by_side.adoption import AdoptionEvidence
from state_api.domain.releases.side_by_side.commands import RouteCommand
from state_api.domain.releases.side_by_side.releases import Model, Release, ReleaseState, RoutingChange, find_state
from state_api.domain.releases.side_by_side.routing import find_unproven_releases
from state_api.domain.releases.side_by_side.verdicts import ReleaseUse, find_blocked_until
from state_api.domain.task_hubs.ownership import OwnershipProof, ProofBasis
from tests.domain.builders import (
    ANNA,
    NOON,
    PROVIDER_CONFIG,
    build_app,
    build_not_ready_verdict,
    build_production_slot,
    build_ready_verdict,
    build_slot,
    noon_plus,
)
from tests.domain.release_transitions import (
    TOKENS,
    address_of,
    build_acknowledgement,
    build_shop_app,
    build_side_by_side_app,
    build_staged_release,
    delete_release,
    hub_of,
    post_release,
    publish_transition,
    put_routing,
)
from tests.domain.transitions import (
    abandon_staging,
    begin_swap,
    build_app_with_open_deployment,
    build_register_command,
    require_transition,
    stage,
    swap_at_once,
)

PROOF = OwnershipProof(ProofBasis.ADOPTED, ("https://shop.table.example",), NOON)


def assignment_of(version: str) -> ReleaseAssignment:
    return ReleaseAssignment(hub_of(version), address_of(version))


def put_app(
    app: App,
    releases: Mapping[str, ReleaseAssignment] | None = None,
    *,
    model: Model | None = Model.SIDE_BY_SIDE,
    verdicts: Mapping[str, Verdict] | None = None,
    adoption: AdoptionEvidence | None = None,
    proof: OwnershipProof | None = None,
    **changes: Any,
) -> Transition:
    """PutApp with this model and these releases."""
    command: RegisterCommand = replace(build_register_command(**changes), model=model, releases=releases or {})
    tokens = AdoptionEvidence(tokens=dict.fromkeys(releases or {}, TOKENS))
    evidence = RegisterEvidence(verdicts or {}, proof=proof, adoption=adoption or tokens)
    return publish_transition(app, register_app(app, command, evidence, NOON), NOON)


def test_an_app_gets_releases_side_by_side() -> None:
    transition = put_app(build_app())
    assert transition.app.model is Model.SIDE_BY_SIDE
    assert transition.app.routing.revision == 4
    assert transition.details == {"model": "sideBySide"}


def test_an_existing_release_is_adopted_as_a_staged_one() -> None:
    transition = put_app(build_app(), {"1.4.0": assignment_of("1.4.0")}, provider_config=PROVIDER_CONFIG, proof=PROOF)
    assert transition.app.releases == {"1.4.0": Release("1.4.0", "v140", "https://shop-140.example", TOKENS, NOON)}
    assert transition.app.deployment is None
    assert (transition.new_hubs, transition.proof) == (("v140",), PROOF)
    assert transition.details["releases"] == {"1.4.0": {"taskHub": "v140", "address": "https://shop-140.example"}}


def test_repeating_an_adoption_changes_nothing() -> None:
    app = put_app(build_app(), {"1.4.0": assignment_of("1.4.0")}).app
    again = put_app(app, {"1.4.0": assignment_of("1.4.0")})
    assert not again.changed
    assert again.new_hubs == ()
    assert not put_app(app, model=None).changed, "releases that are not named stay"


def test_a_version_of_a_deleted_app_is_adopted_again_with_its_task_hub() -> None:
    adoption = AdoptionEvidence(tokens={"1.4.0": TOKENS}, earlier_task_hubs={"1.4.0": "V140"})
    adopted = put_app(build_app(), {"1.4.0": assignment_of("1.4.0")}, adoption=adoption).app
    assert find_state(adopted.releases["1.4.0"], adopted.routing) is ReleaseState.SERVING
    with pytest.raises(ReleaseInUse, match="through the router"):
        delete_release(adopted, "1.4.0")
    promoted = put_routing(post_release(adopted, "1.5.0").app, "1.5.0").app
    behind = build_acknowledgement("envoy-1", adopted.routing.revision - 1)
    with pytest.raises(ReleaseNotDrained, match="envoy-1"):
        delete_release(promoted, "1.4.0", acknowledgements=[behind], now=noon_plus(60))


def test_the_address_of_a_release_is_corrected() -> None:
    app = build_shop_app()
    corrected = put_app(app, {"1.4.0": ReleaseAssignment("V140", "https://new.example")}, model=None)
    assert corrected.app.releases["1.4.0"] == replace(app.releases["1.4.0"], address="https://new.example")
    assert corrected.app.releases["1.3.0"] == app.releases["1.3.0"]
    assert corrected.app.routing.revision == 4


# From slots to releases


def test_the_task_hub_in_production_becomes_that_of_a_release() -> None:
    app = build_app(build_production_slot("v140"))
    moved = put_app(app, {"1.4.0": assignment_of("1.4.0")})
    assert moved.app.slots == {"production": None, "staging": None}
    assert moved.app.releases["1.4.0"].task_hub == "v140"
    assert moved.app.retired == ()
    assert moved.new_hubs == (), "the app has claimed it"


@pytest.mark.parametrize("production", [None, ("v140", None)])
def test_a_slot_that_is_moved_may_also_be_named_in_slots(production: tuple[str, None] | None) -> None:
    app = build_app(build_production_slot("v140"))
    moved = put_app(app, {"1.4.0": assignment_of("1.4.0")}, slots={"production": production})
    assert moved.app.slots["production"] is None
    assert (
        find_replaced_slots(
            app, replace(build_register_command({"production": None}), releases={"1.4.0": assignment_of("1.4.0")})
        )
        == ()
    )


def test_the_other_slot_is_emptied_once_it_has_drained() -> None:
    app = build_app(build_production_slot("v140"), build_slot("v130"))
    releases = {"1.4.0": assignment_of("1.4.0")}
    moved = put_app(app, releases, slots={"staging": None}, verdicts={"staging": build_ready_verdict()})
    assert moved.app.slots == {"production": None, "staging": None}
    assert [hub.task_hub for hub in moved.app.retired] == ["v130"]
    with pytest.raises(StagingNotReady):
        put_app(app, releases, slots={"staging": None}, verdicts={"staging": build_not_ready_verdict()})


def test_an_app_without_releases_goes_back_to_slots() -> None:
    app = put_app(build_app()).app
    back = put_app(app, model=Model.SLOTS, slots={"production": ("v140", None)}).app
    assert back.model is Model.SLOTS
    assert back.routing == app.routing, "the next document must have a greater revision"
    assert put_app(back, {"1.4.0": assignment_of("1.4.0")}).app.routing.revision > app.routing.revision


def test_a_release_from_production_is_in_use_until_a_promotion() -> None:
    moved = put_app(build_app(build_production_slot("v140")), {"1.4.0": assignment_of("1.4.0")}).app
    assert find_state(moved.releases["1.4.0"], moved.routing) is ReleaseState.SERVING
    with pytest.raises(ReleaseInUse, match=r"release 1\.4\.0 was in production before"):
        delete_release(moved, "1.4.0")
    use = ReleaseUse((), None, NOON)
    assert find_blocked_until(moved, moved.releases["1.4.0"], use) == NO_END


def test_a_release_from_production_drains_from_the_first_promotion_of_another_one() -> None:
    moved = put_app(build_app(build_production_slot("v140")), {"1.4.0": assignment_of("1.4.0")}).app
    promoted = put_routing(post_release(moved, "1.5.0").app, "1.5.0").app
    assert promoted.releases["1.4.0"].traffic_end == RoutingChange(promoted.routing.revision, NOON)
    assert find_state(promoted.releases["1.4.0"], promoted.routing) is ReleaseState.DRAINING
    assert delete_release(promoted, "1.4.0", now=noon_plus(60)).changed


def test_a_release_from_production_gets_traffic_from_a_router_only_if_its_task_hub_exists() -> None:
    moved = put_app(build_app(build_production_slot("v140")), {"1.4.0": assignment_of("1.4.0")}).app
    command = RouteCommand(caller=ANNA, active="1.4.0")
    assert find_unproven_releases(moved, command) == (moved.releases["1.4.0"],)
    promoted = put_routing(moved, "1.4.0").app
    assert find_unproven_releases(promoted, command) == ()


def test_a_release_from_a_slot_that_was_never_in_production_is_staged() -> None:
    moved = put_app(build_app(None, build_slot("v150")), {"1.5.0": assignment_of("1.5.0")}).app
    assert find_state(moved.releases["1.5.0"], moved.routing) is ReleaseState.STAGED


# Refusals

PENDING_SWAP = begin_swap(build_app(build_production_slot("v140"), build_slot("v150")), "v150").app


@pytest.mark.parametrize(
    ("app", "arguments", "error", "message"),
    [
        (build_app(build_production_slot("v140")), {}, WrongModel, r"has task hubs in slots: production \(v140\)"),
        (
            build_app(build_production_slot("v140"), build_slot("v130")),
            {"releases": {"1.4.0": assignment_of("1.4.0")}},
            WrongModel,
            r"staging \(v130\)",
        ),
        (build_app(), {"slots": {"staging": ("v1x", None)}}, WrongModel, r"staging \(v1x\)"),
        (build_shop_app(), {"slots": {"staging": ("v1x", None)}}, WrongModel, "so it has no slots"),
        (build_shop_app(), {"model": Model.SLOTS}, WrongModel, r"has the releases 1\.3\.0, 1\.4\.0, 1\.5\.0"),
        (build_app(), {"model": None, "releases": {"1": assignment_of("1.0")}}, WrongModel, "the model slots"),
        (
            build_app(),
            {"provider_config": ProviderConfig("managementApi", "STATE_TASKHUBS_SHOP")},
            InvalidRequest,
            "managementApi reads task hubs through one Function App",
        ),
        (
            PENDING_SWAP,
            {"releases": {"1.5.0": assignment_of("1.5.0"), "1.4.0": assignment_of("1.4.0")}},
            SwapPending,
            "",
        ),
        (
            build_app_with_open_deployment(),
            {"releases": {"1": ReleaseAssignment("v41", "https://a"), "2": ReleaseAssignment("v42", "https://b")}},
            DeploymentInProgress,
            "deploying task hub v42 into slot staging",
        ),
        (
            build_app(
                build_production_slot("v41"), replace(build_slot("v42"), prior_hubs=(PriorHub("v40", promoted=True),))
            ),
            {"releases": {"1": ReleaseAssignment("v41", "https://a"), "2": ReleaseAssignment("v42", "https://b")}},
            InvalidRequest,
            "may still carry v40",
        ),
        (build_shop_app(), {"releases": {"1.4.0": assignment_of("1.6.0")}}, ReleaseExists, "already has release 1.4.0"),
        (build_shop_app(), {"releases": {"1.6.0": assignment_of("1.4.0")}}, TaskHubInUse, r"release 1\.4\.0"),
        (
            build_shop_app(),
            {"releases": {"1.6.0": ReleaseAssignment("v160", address_of("1.4.0"))}},
            InvalidRequest,
            "cannot belong to two releases",
        ),
        (
            build_shop_app(),
            {"releases": {"1.6.0": assignment_of("1.6.0"), "1.7.0": ReleaseAssignment("V160", "https://b")}},
            InvalidRequest,
            "v160 cannot belong to two releases",
        ),
        (
            replace(build_shop_app(), retired=(RetiredHub("v160", None, NOON),)),
            {"releases": {"1.6.0": assignment_of("1.6.0")}},
            TaskHubAlreadyUsed,
            "used before",
        ),
        (
            build_shop_app(),
            {
                "releases": {"1.6.0": assignment_of("1.6.0")},
                "adoption": AdoptionEvidence({"1.6.0": TOKENS}, {"1.6.0": "other"}),
            },
            ReleaseExists,
            "was used before, with task hub other",
        ),
        (
            build_shop_app(),
            {
                "releases": {"1.6.0": assignment_of("1.6.0")},
                "adoption": AdoptionEvidence({"1.6.0": TOKENS}, used_hub_keys=frozenset({HubKey("v160")})),
            },
            TaskHubAlreadyUsed,
            "used before",
        ),
        (
            build_shop_app(),
            {
                "releases": {"1.6.0": assignment_of("1.6.0")},
                "update_policy": lambda policy: replace(policy, address_pattern="https://*.azurewebsites.net"),
            },
            AddressNotAllowed,
            "allows only addresses",
        ),
        (
            build_shop_app(),
            {
                "releases": {"1.6.0": assignment_of("1.6.0")},
                "update_policy": lambda policy: replace(policy, max_releases=3),
            },
            TooManyReleases,
            "allows 3",
        ),
    ],
)
def test_an_adoption_is_refused(app: App, arguments: dict[str, Any], error: type[StateError], message: str) -> None:
    with pytest.raises(error, match=message or None):
        put_app(app, **arguments)


def test_a_policy_below_the_present_number_of_releases_is_accepted() -> None:
    policy = put_app(
        build_shop_app(), model=None, update_policy=lambda policy: replace(policy, max_releases=1)
    ).app.policy
    assert policy == Policy(max_releases=1)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: stage(build_shop_app()),
        lambda: swap_at_once(build_shop_app(), "v150"),
        lambda: abandon_staging(build_shop_app(), "v150"),
    ],
    ids=["PostStaging", "PostSwap", "DeleteStaging"],
)
def test_operations_on_slots_are_refused(operation: Callable[[], Transition]) -> None:
    with pytest.raises(WrongModel, match="has the model sideBySide, and PostStaging"):
        operation()


# DeleteApp


def test_an_app_is_deleted_once_all_its_releases_have_drained() -> None:
    app = build_side_by_side_app(build_staged_release("1.5.0"))
    deleted = require_transition(delete_app(app, DeletionEvidence(releases={"1.5.0": build_ready_verdict()}), NOON))
    assert deleted.app == App("shop", revision=3, deleted=True)
    assert deleted.details["releases"] == {"1.5.0": "v150"}
    with pytest.raises(AppNotDrained, match=r"release 1\.5\.0: 1 orchestration instance is active"):
        require_transition(delete_app(app, DeletionEvidence(releases={"1.5.0": build_not_ready_verdict("v150")}), NOON))
