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
from state_api.domain.releases.commands import RegisterCommand, ReleaseAssignment
from state_api.domain.releases.deletion import DeletionEvidence, delete_app
from state_api.domain.releases.registration import RegisterEvidence, find_replaced_slots, register_app
from state_api.domain.releases.side_by_side.adoption import AdoptionEvidence
from state_api.domain.releases.side_by_side.releases import Model, Release
from state_api.domain.task_hubs.ownership import OwnershipProof, ProofBasis
from tests.domain.builders import (
    NOON,
    PROVIDER_CONFIG,
    not_ready_verdict,
    production_slot,
    ready_verdict,
    registered_app,
    slot,
)
from tests.domain.release_transitions import (
    TOKENS,
    address_of,
    hub_of,
    published,
    shop_app,
    side_by_side_app,
    staged_release,
)
from tests.domain.transitions import (
    abandon,
    accepted,
    app_with_open_deployment,
    begin_swap,
    register_command,
    stage,
    swap_at_once,
)

PROOF = OwnershipProof(ProofBasis.ADOPTED, ("https://shop.table.example",), NOON)


def assignment_of(version: str) -> ReleaseAssignment:
    return ReleaseAssignment(hub_of(version), address_of(version))


def put(
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
    command: RegisterCommand = replace(register_command(**changes), model=model, releases=releases or {})
    tokens = AdoptionEvidence(tokens=dict.fromkeys(releases or {}, TOKENS))
    evidence = RegisterEvidence(verdicts or {}, proof=proof, adoption=adoption or tokens)
    return published(app, register_app(app, command, evidence, NOON), NOON)


def test_an_app_gets_releases_side_by_side() -> None:
    transition = put(registered_app())
    assert transition.app.model is Model.SIDE_BY_SIDE
    assert transition.app.routing.revision == 4
    assert transition.details == {"model": "sideBySide"}


def test_an_existing_release_is_adopted_as_a_staged_one() -> None:
    transition = put(registered_app(), {"1.4.0": assignment_of("1.4.0")}, provider_config=PROVIDER_CONFIG, proof=PROOF)
    assert transition.app.releases == {"1.4.0": Release("1.4.0", "v140", "https://shop-140.example", TOKENS, NOON)}
    assert transition.app.deployment is None
    assert (transition.new_hubs, transition.proof) == (("v140",), PROOF)
    assert transition.details["releases"] == {"1.4.0": {"taskHub": "v140", "address": "https://shop-140.example"}}


def test_repeating_an_adoption_changes_nothing() -> None:
    app = put(registered_app(), {"1.4.0": assignment_of("1.4.0")}).app
    again = put(app, {"1.4.0": assignment_of("1.4.0")})
    assert not again.changed
    assert again.new_hubs == ()
    assert not put(app, model=None).changed, "releases that are not named stay"


def test_a_version_of_a_deleted_app_is_adopted_again_with_its_task_hub() -> None:
    adoption = AdoptionEvidence(tokens={"1.4.0": TOKENS}, earlier_task_hubs={"1.4.0": "V140"})
    assert put(registered_app(), {"1.4.0": assignment_of("1.4.0")}, adoption=adoption).changed


def test_the_address_of_a_release_is_corrected() -> None:
    app = shop_app()
    corrected = put(app, {"1.4.0": ReleaseAssignment("V140", "https://new.example")}, model=None)
    assert corrected.app.releases["1.4.0"] == replace(app.releases["1.4.0"], address="https://new.example")
    assert corrected.app.releases["1.3.0"] == app.releases["1.3.0"]
    assert corrected.app.routing.revision == 4


# From slots to releases


def test_the_task_hub_in_production_becomes_that_of_a_release() -> None:
    app = registered_app(production_slot("v140"))
    moved = put(app, {"1.4.0": assignment_of("1.4.0")})
    assert moved.app.slots == {"production": None, "staging": None}
    assert moved.app.releases["1.4.0"].task_hub == "v140"
    assert moved.app.retired == ()
    assert moved.new_hubs == (), "the app has claimed it"


@pytest.mark.parametrize("production", [None, ("v140", None)])
def test_a_slot_that_is_moved_may_also_be_named_in_slots(production: tuple[str, None] | None) -> None:
    app = registered_app(production_slot("v140"))
    moved = put(app, {"1.4.0": assignment_of("1.4.0")}, slots={"production": production})
    assert moved.app.slots["production"] is None
    assert (
        find_replaced_slots(
            app, replace(register_command({"production": None}), releases={"1.4.0": assignment_of("1.4.0")})
        )
        == ()
    )


def test_the_other_slot_is_emptied_once_it_has_drained() -> None:
    app = registered_app(production_slot("v140"), slot("v130"))
    releases = {"1.4.0": assignment_of("1.4.0")}
    moved = put(app, releases, slots={"staging": None}, verdicts={"staging": ready_verdict()})
    assert moved.app.slots == {"production": None, "staging": None}
    assert [hub.task_hub for hub in moved.app.retired] == ["v130"]
    with pytest.raises(StagingNotReady):
        put(app, releases, slots={"staging": None}, verdicts={"staging": not_ready_verdict()})


def test_an_app_without_releases_goes_back_to_slots() -> None:
    app = put(registered_app()).app
    back = put(app, model=Model.SLOTS, slots={"production": ("v140", None)}).app
    assert back.model is Model.SLOTS
    assert back.routing == app.routing, "the next document must have a greater revision"
    assert put(back, {"1.4.0": assignment_of("1.4.0")}).app.routing.revision > app.routing.revision


# Refusals

PENDING_SWAP = begin_swap(registered_app(production_slot("v140"), slot("v150")), "v150").app


@pytest.mark.parametrize(
    ("app", "arguments", "error", "message"),
    [
        (registered_app(production_slot("v140")), {}, WrongModel, r"has task hubs in slots: production \(v140\)"),
        (
            registered_app(production_slot("v140"), slot("v130")),
            {"releases": {"1.4.0": assignment_of("1.4.0")}},
            WrongModel,
            r"staging \(v130\)",
        ),
        (registered_app(), {"slots": {"staging": ("v1x", None)}}, WrongModel, r"staging \(v1x\)"),
        (shop_app(), {"slots": {"staging": ("v1x", None)}}, WrongModel, "so it has no slots"),
        (shop_app(), {"model": Model.SLOTS}, WrongModel, r"has the releases 1\.3\.0, 1\.4\.0, 1\.5\.0"),
        (registered_app(), {"model": None, "releases": {"1": assignment_of("1.0")}}, WrongModel, "the model slots"),
        (
            registered_app(),
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
            app_with_open_deployment(),
            {"releases": {"1": ReleaseAssignment("v41", "https://a"), "2": ReleaseAssignment("v42", "https://b")}},
            DeploymentInProgress,
            "deploying task hub v42 into slot staging",
        ),
        (
            registered_app(production_slot("v41"), replace(slot("v42"), prior_hubs=(PriorHub("v40", promoted=True),))),
            {"releases": {"1": ReleaseAssignment("v41", "https://a"), "2": ReleaseAssignment("v42", "https://b")}},
            InvalidRequest,
            "may still carry v40",
        ),
        (shop_app(), {"releases": {"1.4.0": assignment_of("1.6.0")}}, ReleaseExists, "already has release 1.4.0"),
        (shop_app(), {"releases": {"1.6.0": assignment_of("1.4.0")}}, TaskHubInUse, r"release 1\.4\.0"),
        (
            shop_app(),
            {"releases": {"1.6.0": ReleaseAssignment("v160", address_of("1.4.0"))}},
            InvalidRequest,
            "cannot belong to two releases",
        ),
        (
            shop_app(),
            {"releases": {"1.6.0": assignment_of("1.6.0"), "1.7.0": ReleaseAssignment("V160", "https://b")}},
            InvalidRequest,
            "v160 cannot belong to two releases",
        ),
        (
            replace(shop_app(), retired=(RetiredHub("v160", None, NOON),)),
            {"releases": {"1.6.0": assignment_of("1.6.0")}},
            TaskHubAlreadyUsed,
            "used before",
        ),
        (
            shop_app(),
            {
                "releases": {"1.6.0": assignment_of("1.6.0")},
                "adoption": AdoptionEvidence({"1.6.0": TOKENS}, {"1.6.0": "other"}),
            },
            ReleaseExists,
            "was used before, with task hub other",
        ),
        (
            shop_app(),
            {
                "releases": {"1.6.0": assignment_of("1.6.0")},
                "adoption": AdoptionEvidence({"1.6.0": TOKENS}, used_hub_keys=frozenset({HubKey("v160")})),
            },
            TaskHubAlreadyUsed,
            "used before",
        ),
        (
            shop_app(),
            {
                "releases": {"1.6.0": assignment_of("1.6.0")},
                "update_policy": lambda policy: replace(policy, address_pattern="https://*.azurewebsites.net"),
            },
            AddressNotAllowed,
            "allows only addresses",
        ),
        (
            shop_app(),
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
        put(app, **arguments)


def test_a_policy_below_the_present_number_of_releases_is_accepted() -> None:
    policy = put(shop_app(), model=None, update_policy=lambda policy: replace(policy, max_releases=1)).app.policy
    assert policy == Policy(max_releases=1)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: stage(shop_app()),
        lambda: swap_at_once(shop_app(), "v150"),
        lambda: abandon(shop_app(), "v150"),
    ],
    ids=["PostStaging", "PostSwap", "DeleteStaging"],
)
def test_operations_on_slots_are_refused(operation: Callable[[], Transition]) -> None:
    with pytest.raises(WrongModel, match="has the model sideBySide, and PostStaging"):
        operation()


# DeleteApp


def test_an_app_is_deleted_once_all_its_releases_have_drained() -> None:
    app = side_by_side_app(staged_release("1.5.0"))
    deleted = accepted(delete_app(app, DeletionEvidence(releases={"1.5.0": ready_verdict()}), NOON))
    assert deleted.app == App("shop", revision=3, deleted=True)
    assert deleted.details["releases"] == {"1.5.0": "v150"}
    with pytest.raises(AppNotDrained, match=r"release 1\.5\.0: 1 orchestration instance is active"):
        accepted(delete_app(app, DeletionEvidence(releases={"1.5.0": not_ready_verdict("v150")}), NOON))
