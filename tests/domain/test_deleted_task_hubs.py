"""A removal that failed after its command had deleted the task hub can be repeated, and nothing else with a missing
task hub can."""

from dataclasses import replace

import pytest

from state_api.domain.errors import ReleaseInUse, ReleaseNotDeployed, ReleaseNotDrained
from state_api.domain.readiness.evidence import InstanceActivity, ProbeStatus
from state_api.domain.readiness.policy import Assurance, Policy
from state_api.domain.readiness.verdict import Verdict, assess_readiness
from state_api.domain.releases.apps import App
from state_api.domain.releases.side_by_side.commands import RemovalOutcome, RouteCommand
from state_api.domain.releases.side_by_side.routing import find_unproven_releases
from state_api.domain.releases.side_by_side.verdicts import ReleaseUse, assess_release, needs_missing_backend
from tests.domain.builders import (
    ANNA,
    BEN,
    PROVIDER_CONFIG,
    build_active_instance,
    build_evidence_with_probe,
    build_probe_result,
    build_ready_verdict,
    noon_plus,
)
from tests.domain.release_transitions import build_shop_app, delete_release, post_release, put_routing

HERE, ELSEWHERE = "the storage of shop", "another storage"
SHOP = replace(build_shop_app(), provider_config=PROVIDER_CONFIG)
"""1.3.0 is draining, 1.4.0 is active, and 1.5.0 is staged."""
POLICY = Policy(freshness_seconds=86_400)
FAILED = RemovalOutcome.FAILED


def build_probed_verdict(status: ProbeStatus, *active_ids: str, began: float = 900) -> Verdict:
    """A verdict by a probe that ended so, at the provider of the app."""
    probe = replace(build_probe_result(began=began), status=status)
    activity = InstanceActivity(active=tuple(map(build_active_instance, active_ids)))
    return assess_readiness(build_evidence_with_probe(probe, activity=activity), POLICY, noon_plus(began + 100))


DRAINED, MISSING = build_probed_verdict(ProbeStatus.COMPLETE), build_probed_verdict(ProbeStatus.MISSING)


def begin_removal(app: App, version: str = "1.3.0", verdict: Verdict = DRAINED, backend_id: str | None = HERE) -> App:
    """The app after the removal of a release has begun, with a verdict on its task hub at this backend."""
    return delete_release(app, version, verdict=verdict, backend_id=backend_id, now=noon_plus(1000)).app


def fail_removal(app: App, version: str = "1.3.0", verdict: Verdict = DRAINED, backend_id: str | None = HERE) -> App:
    """Begin a removal, whose command then fails."""
    return delete_release(begin_removal(app, version, verdict, backend_id), version, FAILED, verdict=None).app


def assess_missing(
    app: App, version: str = "1.3.0", *, missing_at: str | None = HERE, verdict: Verdict = MISSING, now: float = 1000
) -> Verdict:
    """The verdict on a release whose task hub was found missing at this backend."""
    return assess_release(app, app.releases[version], ReleaseUse((), None, noon_plus(now), missing_at), verdict)


@pytest.mark.parametrize("version", ["1.3.0", "1.5.0"])
def test_a_removal_whose_command_had_deleted_the_task_hub_is_repeated(version: str) -> None:
    failed = fail_removal(SHOP, version)
    assert needs_missing_backend(failed.releases[version], MISSING)
    verdict = assess_missing(failed, version)
    assert (verdict.ready, verdict.reasons, verdict.retry_after_seconds) == (True, (), None)
    assert verdict.assurance is Assurance.VERIFIED
    begun = delete_release(
        failed, version, caller=BEN, verdict=MISSING, backend_id=HERE, missing_at=HERE, now=noon_plus(1000)
    ).app
    assert begun.releases[version].removal is not None
    later = build_probed_verdict(ProbeStatus.MISSING, began=1060)
    assert assess_missing(begun, version, verdict=later, now=1060).ready, "the command runs after a last question"
    again = delete_release(begun, version, FAILED, caller=BEN, verdict=None).app
    assert assess_missing(again, version).ready, "a removal may fail twice"


@pytest.mark.parametrize(
    ("app", "missing_at"),
    [
        pytest.param(SHOP, HERE, id="no removal had begun"),
        pytest.param(fail_removal(SHOP), None, id="the provider did not say so"),
        pytest.param(fail_removal(SHOP), ELSEWHERE, id="the connection leads elsewhere since"),
        pytest.param(fail_removal(SHOP, backend_id=None), HERE, id="no provider had shown it drained"),
        pytest.param(fail_removal(SHOP, verdict=build_ready_verdict()), HERE, id="drained by events alone"),
    ],
)
def test_a_missing_task_hub_alone_proves_nothing(app: App, missing_at: str | None) -> None:
    verdict = assess_missing(app, missing_at=missing_at)
    assert [reason.code.value for reason in verdict.reasons] == ["TaskHubMissing"]
    with pytest.raises(ReleaseNotDrained, match="could not be read"):
        delete_release(app, "1.3.0", verdict=MISSING, backend_id=HERE, missing_at=missing_at, now=noon_plus(1000))


def test_a_task_hub_that_was_never_there_is_no_proof_for_a_later_removal() -> None:
    """The policy allows missing task hubs, so the first removal begins without any look at a task hub."""
    policy = replace(POLICY, missing_task_hub_is_drained=True)
    probe = replace(build_probe_result(began=900), status=ProbeStatus.MISSING)
    never_seen = replace(build_evidence_with_probe(probe), seen_before=False)
    failed = fail_removal(SHOP, "1.5.0", verdict=assess_readiness(never_seen, policy, noon_plus(1000)))
    assert failed.releases["1.5.0"].drained_backend is None


def test_what_is_known_to_be_active_blocks_although_the_task_hub_is_missing() -> None:
    verdict = assess_missing(fail_removal(SHOP), verdict=build_probed_verdict(ProbeStatus.MISSING, "order-1"))
    assert [reason.code.value for reason in verdict.reasons] == ["InstancesActive"]
    assert not verdict.ready


def test_a_task_hub_that_the_app_has_created_again_is_read_like_any_other() -> None:
    failed = fail_removal(SHOP)
    assert not needs_missing_backend(failed.releases["1.3.0"], DRAINED)
    active = assess_missing(failed, missing_at=None, verdict=build_probed_verdict(ProbeStatus.COMPLETE, "order-1"))
    assert not active.ready


def test_traffic_ends_the_proof_of_a_drained_task_hub() -> None:
    routed = put_routing(fail_removal(SHOP), "1.3.0").app
    with pytest.raises(ReleaseInUse):
        delete_release(routed, "1.3.0", verdict=MISSING, backend_id=HERE, missing_at=HERE, now=noon_plus(1000))
    drained = put_routing(routed, "1.4.0").app
    assert drained.releases["1.3.0"].drained_backend is None
    assert not assess_missing(drained).ready


def test_a_deployment_ends_the_proof_of_a_drained_task_hub() -> None:
    again = post_release(fail_removal(SHOP, "1.5.0"), "1.5.0").app
    assert again.releases["1.5.0"].drained_backend is None


def test_traffic_goes_to_a_release_whose_removal_failed_only_if_its_task_hub_exists() -> None:
    failed = fail_removal(SHOP)
    assert find_unproven_releases(failed, RouteCommand(caller=ANNA, active="1.3.0")) == (failed.releases["1.3.0"],)
    with pytest.raises(ReleaseNotDeployed):
        put_routing(failed, "1.3.0", started={"1.3.0": False})


def test_a_run_that_continues_a_removal_keeps_its_proof() -> None:
    begun = begin_removal(SHOP)
    joined = delete_release(begun, "1.3.0", caller=BEN, verdict=None, now=noon_plus(1000 + 3600)).app
    assert joined.releases["1.3.0"].drained_backend == HERE
