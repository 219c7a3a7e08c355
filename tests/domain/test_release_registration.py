"""PostRelease: what is registered, what is refused, and how a deployment opens."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from state_api.domain.errors import (
    AddressNotAllowed,
    DeploymentInProgress,
    InvalidRequest,
    ReleaseExists,
    StateError,
    TaskHubAlreadyUsed,
    TaskHubInUse,
    TaskHubUnavailable,
    TooManyReleases,
    WrongModel,
)
from state_api.domain.readiness.policy import Policy
from state_api.domain.releases.apps import App, Deployment, RetiredHub
from state_api.domain.releases.side_by_side.releases import MAX_RELEASES, Release, ReleaseState, find_state
from state_api.domain.task_hubs.ownership import ExistingArtifacts, OwnershipProof, ProofBasis, ProviderUnavailable
from tests.domain.builders import ANNA, BEN, CALLER_WITHOUT_RUN, NOON, RUN_7_URL, build_app, noon_plus
from tests.domain.release_transitions import (
    TOKENS,
    address_of,
    build_shop_app,
    build_side_by_side_app,
    build_staged_release,
    delete_release,
    post_release,
    put_routing,
)

NOTHING = ExistingArtifacts((), ("https://shop.table.example",))


def test_a_new_release_is_staged_and_opens_a_deployment() -> None:
    transition = post_release(build_shop_app(), "1.6.0", existing=NOTHING)
    app = transition.app
    release = app.releases["1.6.0"]
    assert release == Release("1.6.0", "v160", "https://shop-160.example", TOKENS, NOON)
    assert find_state(release, app.routing) is ReleaseState.STAGED
    assert app.deployment == Deployment("v160", "1.6.0", None, NOON, "anna", RUN_7_URL, f"url:{RUN_7_URL}")
    assert transition.new_hubs == ("v160",)
    assert transition.proof == OwnershipProof(ProofBasis.NEW, NOTHING.addresses, NOON)
    assert transition.details == {"version": "1.6.0", "taskHub": "v160", "address": "https://shop-160.example"}
    assert app.routing.revision == app.revision == 4
    assert (app.routing.active, app.routing.updated_at) == ("1.4.0", NOON)


def test_a_release_is_claimed_without_proof_if_the_provider_was_not_asked() -> None:
    assert post_release(build_shop_app()).proof is None


def test_tokens_are_in_no_text_of_a_release() -> None:
    assert TOKENS.sticky not in repr(post_release(build_shop_app()).app)


Change = Callable[[App], App]

REFUSED: list[tuple[str, Change, dict[str, Any], type[StateError], str]] = [
    ("an app with slots", lambda app: build_app(), {}, WrongModel, "has the model slots"),
    ("a version in use", lambda app: app, {"version": "1.4.0", "task_hub": "other"}, ReleaseExists, "already has"),
    ("a release that serves", lambda app: app, {"version": "1.4.0"}, ReleaseExists, "already has release 1.4.0"),
    ("a release that drains", lambda app: app, {"version": "1.3.0"}, ReleaseExists, "already has release 1.3.0"),
    (
        "another task hub of a staged release",
        lambda app: app,
        {"version": "1.5.0", "task_hub": "x15"},
        ReleaseExists,
        "already has",
    ),
    ("a version used before", lambda app: app, {"earlier_task_hub": "old"}, ReleaseExists, "only once"),
    ("the address of another release", lambda app: app, {"address": address_of("1.4.0")}, ReleaseExists, "of its own"),
    ("the task hub of another release", lambda app: app, {"task_hub": "V140"}, TaskHubInUse, "release 1.4.0 of app"),
    (
        "a retired task hub",
        lambda app: replace(app, retired=(RetiredHub("v120", None, NOON),)),
        {"task_hub": "v120"},
        TaskHubAlreadyUsed,
        "used before",
    ),
    ("a task hub used before", lambda app: app, {"used_before": True}, TaskHubAlreadyUsed, "used before"),
    (
        "a task hub that exists",
        lambda app: app,
        {"existing": ExistingArtifacts(("table v160Instances",), ("https://a",))},
        TaskHubAlreadyUsed,
        "already exists",
    ),
    (
        "a provider that cannot be asked",
        lambda app: app,
        {"existing": ProviderUnavailable("denied", 7)},
        TaskHubUnavailable,
        "denied",
    ),
    (
        "an address outside the policy",
        lambda app: replace(app, policy=Policy(address_pattern="https://shop-*.contoso.com")),
        {},
        AddressNotAllowed,
        "ask an administrator",
    ),
    (
        "one release too many for the policy",
        lambda app: replace(app, policy=Policy(max_releases=3)),
        {},
        TooManyReleases,
        r"its policy \(maxReleases\) allows 3",
    ),
    (
        "one release too many for the server",
        lambda app: build_side_by_side_app(*(build_staged_release(f"0.{number}") for number in range(MAX_RELEASES))),
        {},
        TooManyReleases,
        "at most 50",
    ),
    ("a takeover without a reason", lambda app: app, {"take_over": True, "reason": " "}, InvalidRequest, "reason"),
]


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_release_is_refused_with(
    change: Change, arguments: dict[str, Any], error: type[StateError], message: str
) -> None:
    with pytest.raises(error, match=message):
        post_release(change(build_shop_app()), **arguments)


def test_a_policy_cannot_allow_more_releases_than_the_server() -> None:
    releases = [build_staged_release(f"0.{number}") for number in range(MAX_RELEASES)]
    with pytest.raises(TooManyReleases):
        post_release(build_side_by_side_app(*releases, policy=Policy(max_releases=MAX_RELEASES + 10)))


def test_an_address_that_the_policy_allows_is_registered() -> None:
    app = replace(build_shop_app(), policy=Policy(address_pattern="https://shop-*.example"))
    assert post_release(app, "1.6.0").changed


# Open deployments


def test_another_run_is_refused_while_a_deployment_is_open() -> None:
    app = post_release(build_shop_app(), "1.6.0", caller=ANNA).app
    with pytest.raises(DeploymentInProgress, match=r"deploying task hub v160 as release 1\.6\.0 of app shop") as caught:
        post_release(app, "1.7.0", caller=BEN, now=noon_plus(60))
    assert caught.value.details["deployment"]["slot"] is None


def test_another_run_takes_a_deployment_over_with_a_reason() -> None:
    app = post_release(build_shop_app(), "1.6.0", caller=ANNA).app
    transition = post_release(app, "1.7.0", caller=BEN, take_over=True, reason="the first run died")
    assert transition.details["takenOverFrom"]["version"] == "1.6.0"
    assert transition.app.releases.keys() == {"1.3.0", "1.4.0", "1.5.0", "1.6.0", "1.7.0"}


def test_the_same_run_may_register_a_second_release() -> None:
    app = post_release(build_shop_app(), "1.6.0").app
    assert post_release(app, "1.7.0").app.deployment.version == "1.7.0"  # type: ignore[union-attr]


def test_a_repeated_registration_changes_nothing() -> None:
    app = post_release(build_shop_app(), "1.6.0").app
    existing = ExistingArtifacts(("table v160Instances",), ("https://a",))
    again = post_release(app, "1.6.0", existing=existing, used_before=True, now=noon_plus(60))
    assert not again.changed
    assert again.app is app


@pytest.mark.parametrize("caller", [BEN, CALLER_WITHOUT_RUN])
def test_a_staged_release_can_be_registered_again_after_its_deployment_has_expired(caller: Any) -> None:
    app = post_release(build_shop_app(), "1.6.0").app
    again = post_release(app, "1.6.0", caller=caller, now=noon_plus(3600))
    assert again.app.deployment is not None
    assert again.app.deployment.started_at == noon_plus(3600)
    assert again.new_hubs == ()
    assert again.app.releases == app.releases
    assert again.app.routing == app.routing, "the document has not changed"


def test_a_staged_release_gets_another_address_if_it_is_registered_again() -> None:
    app = post_release(build_shop_app(), "1.6.0").app
    again = post_release(app, "1.6.0", address="https://other.example", now=noon_plus(60))
    assert again.app.releases["1.6.0"].address == "https://other.example"
    assert again.app.routing.revision == app.revision + 1


def test_a_run_that_deploys_one_release_may_open_the_deployment_of_another_staged_one() -> None:
    app = post_release(post_release(build_shop_app(), "1.6.0").app, "1.7.0").app
    again = post_release(app, "1.6.0")
    assert again.app.deployment is not None
    assert again.app.deployment.version == "1.6.0"


def test_a_release_that_is_being_removed_cannot_be_registered_again() -> None:
    with pytest.raises(ReleaseExists):
        post_release(delete_release(build_shop_app(), "1.5.0").app, "1.5.0")


@pytest.mark.parametrize("split", [None, {"1.4.0": 99, "1.6.0": 1}])
def test_the_first_traffic_closes_the_deployment(split: dict[str, int] | None) -> None:
    app = post_release(build_shop_app(), "1.6.0").app
    routed = put_routing(app, "1.6.0" if split is None else "1.4.0", split).app
    assert routed.deployment is None
    assert routed.releases["1.6.0"].first_traffic_at == NOON


def test_the_traffic_of_another_release_leaves_the_deployment_open() -> None:
    app = post_release(build_shop_app(), "1.6.0").app
    assert put_routing(app, "1.5.0").app.deployment == app.deployment
