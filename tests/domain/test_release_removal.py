"""DeleteRelease: the two steps of a removal, who may take them, and what refuses them."""

from dataclasses import replace

import pytest

from state_api.domain.errors import (
    DeploymentInProgress,
    ReleaseInUse,
    ReleaseNotDrained,
    ReleaseNotFound,
    ReleaseRemoved,
    RemovalPending,
    StateError,
    WrongModel,
)
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller, RetiredHub
from state_api.domain.releases.side_by_side.commands import RemovalOutcome, RemoveReleaseCommand
from state_api.domain.releases.side_by_side.releases import (
    MAX_REMOVED_RELEASES,
    PendingRemoval,
    RemovedRelease,
    RoutingChange,
)
from state_api.domain.releases.side_by_side.removal import needs_removal_verdict
from tests.domain.builders import (
    ANNA,
    BEN,
    CALLER_WITHOUT_RUN,
    NOON,
    RUN_7_URL,
    build_app,
    build_not_ready_verdict,
    build_ready_verdict,
    noon_plus,
)
from tests.domain.release_transitions import (
    address_of,
    build_acknowledgement,
    build_draining_release,
    build_serving_release,
    build_shop_app,
    build_side_by_side_app,
    delete_release,
    post_release,
    put_routing,
    registered_at,
)

PENDING, DONE, FAILED = RemovalOutcome.PENDING, RemovalOutcome.DONE, RemovalOutcome.FAILED


def test_a_drained_release_is_removed_in_two_steps() -> None:
    begun = delete_release(build_shop_app(), "1.3.0")
    assert begun.details == {"outcome": "Pending", "version": "1.3.0", "taskHub": "v130"}
    assert begun.app.releases["1.3.0"].removal == PendingRemoval(
        RoutingChange(4, NOON), "anna", RUN_7_URL, f"url:{RUN_7_URL}"
    )
    assert begun.app.routing.revision == 4
    done = delete_release(begun.app, "1.3.0", DONE, verdict=None, now=noon_plus(300))
    assert done.details["outcome"] == "Done"
    assert "1.3.0" not in done.app.releases
    assert done.app.retired == (RetiredHub("v130", "1.3.0", noon_plus(300)),)
    assert done.app.removed_releases == (
        RemovedRelease(
            "1.3.0",
            "v130",
            address_of("1.3.0"),
            registered_at("1.3.0"),
            noon_plus(-1800),
            noon_plus(-600),
            noon_plus(300),
        ),
    )


def test_a_failed_removal_leaves_the_release_as_it_was() -> None:
    app = build_shop_app()
    failed = delete_release(delete_release(app, "1.3.0").app, "1.3.0", FAILED, verdict=None)
    assert failed.app.releases == app.releases
    assert failed.details["outcome"] == "Failed"
    assert failed.app.routing.revision == 5, "routers learn that the release is draining again"


def test_a_removed_release_that_never_had_traffic_has_no_times_of_traffic() -> None:
    app = delete_release(delete_release(build_shop_app(), "1.5.0").app, "1.5.0", DONE).app
    assert (app.removed_releases[0].first_traffic_at, app.removed_releases[0].last_traffic_at) == (None, None)


def test_the_last_twenty_removed_releases_stay_listed() -> None:
    app = build_side_by_side_app(*(build_draining_release(f"0.{number}") for number in range(MAX_REMOVED_RELEASES + 2)))
    for number in range(MAX_REMOVED_RELEASES + 2):
        app = delete_release(app, f"0.{number}", DONE).app
    assert len(app.removed_releases) == MAX_REMOVED_RELEASES == 20
    assert [app.removed_releases[0].version, app.removed_releases[-1].version] == ["0.21", "0.2"]
    assert len(app.retired) == 22, "each is still to be cleaned up"


# Refusals

PROMOTED = put_routing(build_shop_app(), "1.5.0").app


@pytest.mark.parametrize("outcome", [PENDING, DONE])
@pytest.mark.parametrize(
    ("app", "version", "verdict", "now", "error", "message"),
    [
        (build_shop_app(), "1.4.0", None, 0, ReleaseInUse, r"release 1\.4\.0 gets 100 % of the requests"),
        (
            build_shop_app(),
            "1.3.0",
            build_not_ready_verdict(),
            0,
            ReleaseNotDrained,
            "1 orchestration instance is active",
        ),
        (
            PROMOTED,
            "1.4.0",
            build_ready_verdict(),
            59,
            ReleaseNotDrained,
            r"routers may send requests to release 1\.4\.0",
        ),
        (build_shop_app(), "9.9", None, 0, ReleaseNotFound, r"no release 9\.9"),
        (build_app(), "1.4.0", None, 0, WrongModel, "has the model slots"),
    ],
)
def test_a_removal_is_refused(
    *,
    app: App,
    version: str,
    verdict: Verdict | None,
    now: float,
    error: type[StateError],
    message: str,
    outcome: RemovalOutcome,
) -> None:
    with pytest.raises(error, match=message):
        delete_release(app, version, outcome, verdict=verdict, now=noon_plus(now))


def test_a_router_that_is_behind_refuses_a_removal() -> None:
    with pytest.raises(ReleaseNotDrained, match=r"envoy-1\. Wait") as caught:
        delete_release(PROMOTED, "1.4.0", acknowledgements=[build_acknowledgement("envoy-1")], now=noon_plus(600))
    assert caught.value.details["reasons"][0]["code"] == "RoutersBehind"
    assert caught.value.details["retryAfterSeconds"] == 10


def test_a_release_that_another_run_deploys_is_not_removed() -> None:
    app = post_release(build_shop_app(), "1.6.0", caller=BEN).app
    with pytest.raises(DeploymentInProgress):
        delete_release(app, "1.6.0", caller=ANNA)
    assert delete_release(app, "1.3.0", caller=ANNA).changed, "it does not deploy this one"
    begun = delete_release(app, "1.6.0", caller=BEN)
    assert begun.app.deployment == app.deployment
    assert delete_release(begun.app, "1.6.0", DONE, caller=BEN).app.deployment is None


def test_the_removal_of_another_release_leaves_a_deployment_open() -> None:
    app = post_release(build_shop_app(), "1.6.0").app
    assert delete_release(app, "1.3.0", DONE).app.deployment == app.deployment


# Repeated requests


def test_the_run_that_began_a_removal_may_begin_it_again() -> None:
    begun = delete_release(build_shop_app(), "1.3.0").app
    again = delete_release(begun, "1.3.0", verdict=None, now=noon_plus(60))
    assert not again.changed


@pytest.mark.parametrize("caller", [BEN, CALLER_WITHOUT_RUN, Caller("dora")])
def test_another_run_cannot_join_a_removal_until_its_time_is_over(caller: Caller) -> None:
    begun = delete_release(build_shop_app(), "1.3.0").app
    with pytest.raises(RemovalPending, match=r"anna \(run .*\) has been removing release 1\.3\.0") as caught:
        delete_release(begun, "1.3.0", caller=caller, now=noon_plus(3598.1))
    assert caught.value.details["removal"]["by"] == "anna"
    assert caught.value.details["retryAfterSeconds"] == 2
    joined = delete_release(begun, "1.3.0", caller=caller, verdict=None, now=noon_plus(3600)).app
    removal = joined.releases["1.3.0"].removal
    assert removal is not None
    assert (removal.started_by, removal.change) == (caller.name, RoutingChange(4, noon_plus(3600)))
    assert joined.routing == begun.routing, "routers know already"
    with pytest.raises(RemovalPending):
        delete_release(joined, "1.3.0", now=noon_plus(3601))


def test_a_caller_without_a_run_cannot_repeat_the_beginning_of_a_removal() -> None:
    begun = delete_release(build_shop_app(), "1.3.0", caller=CALLER_WITHOUT_RUN).app
    with pytest.raises(RemovalPending, match=r"^carla has been removing"):
        delete_release(begun, "1.3.0", caller=CALLER_WITHOUT_RUN)


@pytest.mark.parametrize("outcome", [DONE, FAILED])
@pytest.mark.parametrize("caller", [BEN, CALLER_WITHOUT_RUN])
def test_another_run_reports_the_outcome_of_the_removal_that_it_has_read(
    outcome: RemovalOutcome, caller: Caller
) -> None:
    """A request that is sent again must not end the removal of a run that began after it."""
    begun = delete_release(build_shop_app(), "1.3.0").app
    message = "with the outcome Done or Failed, and with the ETag of GetApp in If-Match"
    for now in (NOON, noon_plus(86_400)):
        with pytest.raises(RemovalPending, match=message):
            delete_release(begun, "1.3.0", outcome, caller=caller, verdict=None, now=now)
    assert delete_release(begun, "1.3.0", outcome, caller=caller, is_conditional=True, verdict=None).changed


@pytest.mark.parametrize("outcome", [DONE, FAILED])
def test_callers_without_a_run_are_taken_for_the_same_one(outcome: RemovalOutcome) -> None:
    begun = delete_release(build_shop_app(), "1.3.0", caller=CALLER_WITHOUT_RUN).app
    assert delete_release(begun, "1.3.0", outcome, caller=CALLER_WITHOUT_RUN, verdict=None).changed
    with pytest.raises(RemovalPending):
        delete_release(begun, "1.3.0", outcome, caller=BEN, verdict=None)


def test_an_outcome_of_a_run_whose_removal_another_run_has_continued_is_refused() -> None:
    begun = delete_release(build_shop_app(), "1.3.0").app
    joined = delete_release(begun, "1.3.0", caller=BEN, verdict=None, now=noon_plus(3600)).app
    for outcome in (DONE, FAILED):
        with pytest.raises(RemovalPending, match=r"^ben \(run"):
            delete_release(joined, "1.3.0", outcome, verdict=None, now=noon_plus(3601))


def test_a_repeated_outcome_changes_nothing() -> None:
    app = build_shop_app()
    assert not delete_release(app, "1.3.0", FAILED).changed
    done = delete_release(delete_release(app, "1.3.0").app, "1.3.0", DONE).app
    assert not delete_release(done, "1.3.0", DONE).changed


@pytest.mark.parametrize("outcome", [PENDING, FAILED])
def test_a_removed_release_cannot_be_removed_again_or_restored(outcome: RemovalOutcome) -> None:
    done = delete_release(build_shop_app(), "1.3.0", DONE).app
    with pytest.raises(ReleaseRemoved, match=r"release 1\.3\.0 of app shop is removed"):
        delete_release(done, "1.3.0", outcome)


# The evidence


@pytest.mark.parametrize(
    ("app", "version", "outcome", "expected"),
    [
        (build_shop_app(), "1.3.0", PENDING, True),
        (build_shop_app(), "1.3.0", DONE, True),
        (build_shop_app(), "1.3.0", FAILED, False),
        (build_shop_app(), "1.4.0", PENDING, False),
        (build_shop_app(), "9.9", PENDING, False),
        (delete_release(build_shop_app(), "1.3.0").app, "1.3.0", PENDING, False),
        (delete_release(build_shop_app(), "1.3.0").app, "1.3.0", DONE, False),
    ],
)
def test_a_task_hub_is_read_only_for_a_removal_that_depends_on_it(
    app: App, version: str, outcome: RemovalOutcome, *, expected: bool
) -> None:
    command = RemoveReleaseCommand(caller=ANNA, version=version, outcome=outcome)
    assert needs_removal_verdict(app, command, NOON) is expected


def test_a_sticky_release_is_in_use() -> None:
    sticky = replace(build_draining_release(), sticky_until=noon_plus(60))
    app = build_side_by_side_app(sticky, build_serving_release(), active="1.4.0")
    with pytest.raises(ReleaseInUse, match="visitors stay with release"):
        delete_release(app, "1.3.0")
