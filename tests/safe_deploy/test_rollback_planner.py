"""Which release a rollback chooses, from what is on record."""

from collections.abc import Iterator, Sequence

import pytest

from safe_deploy.errors import ConflictError
from safe_deploy.side_by_side.app_state import Release, ReleaseState, Routing, SideBySideApp
from safe_deploy.side_by_side.rollback_planner import RoutingChange, choose_rollback_version
from safe_deploy.side_by_side.routing_history import find_routing_changes

Share = str | tuple[str, str]
"""The active release, or the active one and a candidate."""


def build_change(before: Share | None, after: Share) -> RoutingChange:
    """A change of the routing in the audit log, from one share of the traffic to another."""
    return RoutingChange(
        active_before=None if before is None else list_versions(before)[0],
        versions_before=frozenset(() if before is None else list_versions(before)),
        active_after=list_versions(after)[0],
        versions_after=frozenset(list_versions(after)),
    )


def list_versions(share: Share) -> Sequence[str]:
    """The versions of a share: one that gets everything, or several."""
    return (share,) if isinstance(share, str) else share


def find_state(version: str, removing: Sequence[str], staged: Sequence[str]) -> str:
    if version in staged:
        return ReleaseState.STAGED
    return ReleaseState.REMOVING if version in removing else ReleaseState.DRAINING


def choose(
    *shares: Share,
    requested: str | None = None,
    removed: Sequence[str] = (),
    removing: Sequence[str] = (),
    staged: Sequence[str] = (),
) -> str:
    """What a rollback chooses after the traffic went to these shares, one after the other."""
    versions = list(dict.fromkeys(version for share in shares for version in list_versions(share)))
    changes = [build_change(before, after) for before, after in zip((None, *shares[:-1]), shares, strict=True)]
    releases = {
        version: Release(
            version=version,
            task_hub=f"hub{number}",
            address=f"https://{number}.example",
            state=find_state(version, removing, staged),
            registered_at=f"2026-11-0{number}",
            first_traffic_at=None if version in staged else f"2026-11-1{number}",
            last_traffic_at=None,
        )
        for number, version in enumerate((*versions, *staged), 1)
        if version not in removed
    }
    last = list_versions(shares[-1])
    app = SideBySideApp(
        name="shop",
        releases=releases,
        removed=frozenset(removed),
        first_traffic={version: f"2026-11-1{number}" for number, version in enumerate(versions, 1)},
        routing=Routing(revision=len(shares), active=last[0], split=dict.fromkeys(last, 50) if len(last) > 1 else None),
        quiesce_functions=[],
        quiesce_order="gap",
        has_provider=False,
    )
    return choose_rollback_version(app, requested, reversed(changes))


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        (["1", "2"], "1"),
        (["1", "2", "3"], "2"),
        (["1", ("1", "2"), "2"], "1"),
        (["1", "2", ("2", "3"), "3"], "2"),
        # A release that is promoted again after a rollback.
        (["1", "2", "1", "2"], "1"),
        (["1", "2", "1", "3"], "1"),
        # A growing share changes nothing of what was active before.
        (["1", "2", ("2", "1"), "2"], "1"),
    ],
)
def test_a_rollback_goes_to_the_release_that_was_active_before(shares: Sequence[Share], expected: str) -> None:
    assert choose(*shares) == expected


@pytest.mark.parametrize(
    "shares",
    [
        ["1", "2", "1"],
        ["1", "2", "3", "2"],
        ["1", "2", "3", "1"],
        ["1", "2", ("2", "3"), "2"],
        ["1", "2", "1", "1"],
    ],
    ids=["back", "back to the second", "back by two", "a split was ended", "the use of an adopted release was ended"],
)
def test_a_repeated_rollback_stays_where_it_is(shares: Sequence[Share]) -> None:
    assert choose(*shares) == shares[-1]


def test_a_repeated_rollback_stays_where_it_is_after_the_bad_release_was_removed() -> None:
    assert choose("1", "2", "1", removed=["2"]) == "1"


@pytest.mark.parametrize("split", [("2", "3"), ("2", "1")])
def test_a_rollback_during_a_split_ends_it(split: tuple[str, str]) -> None:
    assert choose("1", "2", split) == "2"


@pytest.mark.parametrize(("removed", "removing", "fate"), [(["2"], [], "is removed"), ([], ["2"], "is being removed")])
def test_a_release_whose_function_app_may_be_gone_is_not_chosen(
    removed: list[str], removing: list[str], fate: str
) -> None:
    with pytest.raises(
        ConflictError, match=rf"release 2, which was active before release 3 .*, {fate}\. .*: 1(\. If|$)"
    ) as refusal:
        choose("1", "2", "3", removed=removed, removing=removing)
    # A retirement that was killed must not keep the release from a rollback.
    assert ("send DeleteRelease with the outcome Failed" in refusal.value.message) is bool(removing)


def test_a_first_release_has_nothing_to_roll_back_to() -> None:
    with pytest.raises(ConflictError, match="nothing to roll back to"):
        choose("1")


def test_a_named_release_must_have_had_traffic() -> None:
    assert choose("1", "2", "3", requested="1") == "1"
    with pytest.raises(ConflictError, match=r"never had traffic.*safe-deploy promote --version 4"):
        choose("1", "2", requested="4", staged=["4"])


@pytest.mark.parametrize(("state", "winner"), [("Finished", "2"), ("Aborted", "1")])
def test_a_rollout_that_the_server_ends_changes_the_routing_twice(state: str, winner: str) -> None:
    newest_first = [
        {"operation": "AdvanceRollout", "details": {"state": state}},
        {"operation": "AdvanceRollout", "details": {"state": "Running"}},
        {"operation": "PutRollout", "details": {"baseline": "1", "candidate": "2"}},
        {"operation": "PostRelease", "details": {"version": "2"}},
        {"operation": "PutRouting", "details": {"from": {"active": None}, "to": {"active": "1"}}},
    ]
    begin, end = build_change("1", ("1", "2")), build_change(("1", "2"), winner)
    assert list(find_routing_changes(newest_first)) == [end, begin, build_change(None, "1")]


def test_a_rollout_that_is_live_has_changed_the_routing_once() -> None:
    newest_first = [
        {"operation": "PostRollout", "details": {"state": "Paused"}},
        {"operation": "PutRollout", "details": {"baseline": "1", "candidate": "2"}},
    ]
    assert list(find_routing_changes(newest_first)) == [build_change("1", ("1", "2"))]


def test_only_as_much_of_the_audit_log_is_read_as_is_needed() -> None:
    def list_changes_until_the_second() -> Iterator[RoutingChange]:
        """The last change of the routing. Fails if an earlier one is asked for."""
        yield build_change("1", "2")
        raise AssertionError("the last change already says what was active before")

    app = SideBySideApp(
        name="shop",
        releases={
            "1": Release(
                version="1",
                task_hub="hub1",
                address="https://1.example",
                state="Draining",
                registered_at="1",
                first_traffic_at="1",
                last_traffic_at="2",
            )
        },
        removed=frozenset(),
        first_traffic={"1": "1", "2": "2"},
        routing=Routing(revision=2, active="2", split=None),
        quiesce_functions=[],
        quiesce_order="gap",
        has_provider=False,
    )
    assert choose_rollback_version(app, None, list_changes_until_the_second()) == "1"
