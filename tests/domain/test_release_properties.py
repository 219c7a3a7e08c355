"""No sequence of operations on releases gives traffic to one that is removed, or loses one that may hold work."""

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from state_api.domain.errors import StateError
from state_api.domain.instants import Instant, seconds
from state_api.domain.names import hub_key
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller
from state_api.domain.releases.commands import ReleaseAssignment
from state_api.domain.releases.side_by_side.acknowledgements import (
    acknowledge_revision,
    find_closing_change,
    find_stopped_since,
)
from state_api.domain.releases.side_by_side.commands import RemovalOutcome
from state_api.domain.releases.side_by_side.documents import build_document
from state_api.domain.releases.side_by_side.releases import FORGOTTEN_ROUTERS, RouterAcknowledgement
from state_api.domain.releases.side_by_side.verdicts import ReleaseUse, assess_release, find_quiet_since, find_use
from tests.domain.builders import ANNA, BEN, NOON, build_not_ready_verdict, build_ready_verdict
from tests.domain.release_transitions import (
    build_side_by_side_app,
    delete_release,
    forget_known_router,
    post_release,
    put_app,
    put_routing,
)

VERSIONS = st.sampled_from(["1", "2", "3", "4"])
CALLERS = st.sampled_from([ANNA, BEN])
VERDICTS = st.sampled_from([build_ready_verdict(), build_ready_verdict(), build_not_ready_verdict()])
ROUTERS = st.sampled_from(["envoy-0", "envoy-1"])


class ReleaseSequences(RuleBasedStateMachine):
    """One app, two runs, and two routers that read the routing document now and then, and may be forgotten."""

    def __init__(self) -> None:
        """Begin at noon with an app without releases."""
        super().__init__()
        self.now = NOON
        self.app: App = build_side_by_side_app()
        self.used: dict[str, str] = {}
        self.removed: set[str] = set()
        self.routers: dict[str, RouterAcknowledgement] = {}

    @property
    def acknowledgements(self) -> list[RouterAcknowledgement]:
        return list(self.routers.values())

    def accept(self, after: App) -> None:
        """Take over the app that a transition has returned."""
        assert after.routing.revision >= self.app.routing.revision, "the revision only grows"
        if after is not self.app:
            assert after.revision == self.app.revision + 1
            if build_document(after) != build_document(self.app):
                assert after.routing.revision == after.revision, "routers learn of every change"
        self.app = after

    @rule(duration=st.sampled_from([1, 30, 60, 3600]))
    def wait(self, duration: int) -> None:
        """Let time pass, so that sticky visits and deployments can expire."""
        self.now = Instant(self.now + seconds(duration))

    @rule(router=ROUTERS)
    def read_routing(self, router: str) -> None:
        """The router acknowledges the document that it has read before, and reads the present one."""
        earlier = self.routers.get(router)
        self.routers[router] = acknowledge_revision(self.app, earlier, router, self.app.routing.revision, self.now)

    @rule(router=ROUTERS)
    def forget_router(self, router: str) -> None:
        """An administrator forgets a router. Probes count from no earlier time than before, and only from now on for a
        release to which the router may have sent requests until now."""
        known = self.routers.get(router)
        if known is None:
            return
        before = self.acknowledgements
        transition = forget_known_router(self.app, router, *before, now=self.now)
        assert transition.forgotten_router is not None
        del self.routers[router]
        self.routers[FORGOTTEN_ROUTERS] = transition.forgotten_router.remembered
        for release in self.app.releases.values():
            change, quiet_since = find_closing_change(release), find_quiet_since(release, before)
            if change is None or quiet_since is None:
                continue
            is_stopped = find_stopped_since(known, release, change) is not None
            expected = quiet_since if is_stopped else max(quiet_since, self.now)
            assert find_quiet_since(release, self.acknowledgements) == expected
        self.accept(transition.app)

    @rule(sticky=st.booleans())
    def change_policy(self, *, sticky: bool) -> None:
        """Change whether visitors stay at a release after a promotion."""
        self.app = replace(self.app, policy=Policy(sticky_after_promotion=sticky))

    @rule(version=VERSIONS, caller=CALLERS, take_over=st.booleans())
    def post_release(self, version: str, caller: Caller, *, take_over: bool) -> None:
        """Register a release. If the app accepts it, its version is new, and the traffic is as before."""
        before = self.app
        earlier = None if version in before.releases else self.used.get(version)
        try:
            after = post_release(
                before,
                version,
                caller=caller,
                task_hub=f"hub{version}",
                take_over=take_over,
                reason="test",
                earlier_task_hub=earlier,
                now=self.now,
            ).app
        except StateError:
            return
        assert version not in self.removed, "a version is used only once"
        assert after.routing.split == before.routing.split
        assert after.routing.active == before.routing.active
        self.used[version] = f"hub{version}"
        self.accept(after)

    @rule(version=VERSIONS)
    def adopt_release(self, version: str) -> None:
        """An administrator adopts a release, whose task hub the app had if it had this version."""
        if version in self.used and version not in self.app.releases:
            return
        assignment = ReleaseAssignment(f"hub{version}", f"https://adopted-{version}.example")
        transition = put_app(self.app, {version: assignment}, model=None, now=self.now)
        self.used[version] = f"hub{version}"
        if transition.changed:
            self.accept(transition.app)

    @rule(active=VERSIONS, candidate=VERSIONS, percent=st.integers(-1, 101), is_split=st.booleans())
    def put_routing(self, active: str, candidate: str, percent: int, *, is_split: bool) -> None:
        """Promote a release or split the traffic, unless the app refuses."""
        split = {active: 100 - percent, candidate: percent} if is_split else None
        try:
            after = put_routing(self.app, active, split, now=self.now).app
        except StateError:
            return
        assert after.routing.active == active
        self.accept(after)

    @rule(
        version=VERSIONS,
        caller=CALLERS,
        verdict=VERDICTS,
        outcome=st.sampled_from(RemovalOutcome),
        is_conditional=st.booleans(),
    )
    def delete_release(
        self, version: str, caller: Caller, verdict: Verdict, outcome: RemovalOutcome, *, is_conditional: bool
    ) -> None:
        """Take a step of the removal of a release. Only one without traffic, which every router has acknowledged, may
        be removed. Without the revision of the app, no run ends the removal of another one."""
        before = self.app
        release = before.releases.get(version)
        try:
            after = delete_release(
                before,
                version,
                outcome,
                caller=caller,
                verdict=verdict,
                acknowledgements=self.acknowledgements,
                is_conditional=is_conditional,
                now=self.now,
            ).app
        except StateError:
            return
        if release is not None and release.removal is not None and outcome is not RemovalOutcome.PENDING:
            assert is_conditional or release.removal.run_url == caller.run_url
        if release is not None and release.removal is None and after is not before:
            use = ReleaseUse(self.acknowledgements, None, self.now)
            assert assess_release(before, release, use, verdict).ready
            assert not before.routing.share_of(version), "what has traffic is not removed"
            change = find_closing_change(release)
            routers = [router for router in self.acknowledgements if not router.is_forgotten]
            assert change is None or all(router.revision >= change.revision for router in routers)
        if version not in after.releases and release is not None:
            self.removed.add(version)
        self.accept(after)

    @invariant()
    def percents_sum_to_100(self) -> None:
        routing = self.app.routing
        if routing.active is not None:
            assert sum(routing.share_of(version) for version in routing.versions) == 100
            assert routing.share_of(routing.active) > 0

    @invariant()
    def only_registered_releases_have_traffic(self) -> None:
        for version in self.app.routing.versions:
            release = self.app.releases[version]
            assert release.removal is None
            assert release.had_traffic
            assert release.traffic_end is None

    @invariant()
    def every_release_that_lost_its_traffic_has_the_revision_that_took_it(self) -> None:
        for version, release in self.app.releases.items():
            if release.first_traffic_at is not None and not self.app.routing.share_of(version):
                assert release.traffic_end is not None
            if release.traffic_end is not None:
                assert release.traffic_end.revision <= self.app.routing.revision

    @invariant()
    def an_adopted_release_is_in_use_until_the_routing_is_set(self) -> None:
        for release in self.app.releases.values():
            if release.adopted and release.traffic_end is None:
                assert find_use(release, self.app.routing, self.now) is not None

    @invariant()
    def visitors_stay_only_with_releases_that_a_newer_one_has_replaced(self) -> None:
        for version, release in self.app.releases.items():
            if release.is_sticky(self.now):
                assert not self.app.routing.share_of(version)
                assert self.app.routing.active is not None
                active = self.app.releases[self.app.routing.active]
                assert active.registered_at > release.registered_at
                assert not active.adopted

    @invariant()
    def no_release_is_lost(self) -> None:
        assert set(self.used) == set(self.app.releases) | self.removed
        retired = {hub_key(hub.task_hub) for hub in self.app.retired}
        assert retired == {hub_key(self.used[version]) for version in self.removed}

    @invariant()
    def an_open_deployment_is_of_a_release_without_traffic(self) -> None:
        deployment = self.app.get_open_deployment(self.now)
        if deployment is not None:
            release = self.app.release_holding(deployment.task_hub)
            assert release is not None
            assert not self.app.routing.share_of(release.version)


TestNoSequenceOfOperationsRemovesAReleaseInUse = ReleaseSequences.TestCase
