"""PutApp for releases side by side: the model, adopted releases, and the move from slots."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from state_api.domain.errors import (
    AddressNotAllowed,
    AppNotDrained,
    DeploymentInProgress,
    InvalidRequest,
    ReleaseExists,
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
from state_api.domain.releases.apps import App, PriorHub, ProviderConfig, RetiredHub, Transition
from state_api.domain.releases.commands import ReleaseAssignment
from state_api.domain.releases.deletion import DeletionEvidence, delete_app
from state_api.domain.releases.registration import find_replaced_slots
from state_api.domain.releases.side_by_side.adoption import AdoptionEvidence
from state_api.domain.releases.side_by_side.releases import Model, Release
from state_api.domain.task_hubs.ownership import OwnershipProof, ProofBasis
from tests.domain.builders import (
    NOON,
    PROVIDER_CONFIG,
    build_app,
    build_not_ready_verdict,
    build_production_slot,
    build_ready_verdict,
    build_slot,
)
from tests.domain.release_transitions import (
    TOKENS,
    address_of,
    assignment_of,
    build_shop_app,
    build_side_by_side_app,
    build_staged_release,
    put_app,
)
from tests.domain.transitions import (
    abandon_staging,
    begin_swap,
    build_app_with_open_deployment,
    build_register_command,
    empty_slot_verdicts,
    require_transition,
    stage,
    swap_at_once,
)

PROOF = OwnershipProof(ProofBasis.ADOPTED, ("https://shop.table.example",), NOON)


def test_an_app_gets_releases_side_by_side() -> None:
    transition = put_app(build_app())
    assert transition.app.model is Model.SIDE_BY_SIDE
    assert transition.app.routing.revision == 4
    assert transition.details == {"model": "sideBySide"}


def test_an_existing_release_is_adopted() -> None:
    transition = put_app(build_app(), {"1.4.0": assignment_of("1.4.0")}, provider_config=PROVIDER_CONFIG, proof=PROOF)
    assert transition.app.releases == {
        "1.4.0": Release("1.4.0", "v140", "https://shop-140.example", TOKENS, NOON, adopted=True)
    }
    assert transition.app.deployment is None
    assert (transition.new_hubs, transition.proof) == (("v140",), PROOF)
    assert transition.details["releases"] == {"1.4.0": {"taskHub": "v140", "address": "https://shop-140.example"}}


def test_repeating_an_adoption_changes_nothing() -> None:
    app = put_app(build_app(), {"1.4.0": assignment_of("1.4.0")}).app
    again = put_app(app, {"1.4.0": assignment_of("1.4.0")})
    assert not again.changed
    assert again.new_hubs == ()
    assert not put_app(app, model=None).changed, "releases that are not named stay"


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
                "update_policy": lambda policy: replace(policy, address_pattern="https://*.releases.example"),
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

    def delete(verdict: Verdict) -> Transition:
        evidence = DeletionEvidence(empty_slot_verdicts(app), {"1.5.0": verdict})
        return require_transition(delete_app(app, evidence, NOON))

    deleted = delete(build_ready_verdict())
    assert deleted.app == App("shop", revision=3, deleted=True)
    assert deleted.details["releases"] == {"1.5.0": "v150"}
    with pytest.raises(AppNotDrained, match=r"release 1\.5\.0: 1 orchestration instance is active"):
        delete(build_not_ready_verdict("v150"))
