"""The tables at the end of the demo."""

from dev.demo.output import format_table
from dev.demo_rollout.results import DemoOutcome, VersionResult
from dev.demo_rollout.rollout_record import RolloutRecord, SideNumbers


def format_outcome(outcome: DemoOutcome) -> str:
    """The orders of each version, the numbers that decided each rollout, and the comparison with and without one."""
    rollouts = [rollout for rollout in (outcome.bad_rollout, outcome.good_rollout) if rollout is not None]
    return "\n".join(
        [
            _format_versions(outcome),
            "",
            "  What decided each rollout, from the history. It counts instances: orders, and shipments of charged ones",
            _format_decisions(rollouts),
            "",
            "  The same orders with the rollout, and all on the bad version, as after a promotion without one",
            _format_comparison(outcome),
        ]
    )


def _format_versions(outcome: DemoOutcome) -> str:
    """A column for every version."""
    rollouts = {
        rollout.version: rollout for rollout in (outcome.bad_rollout, outcome.good_rollout) if rollout is not None
    }

    def describe_rollout(version: VersionResult) -> str:
        """How the rollout of a version ended."""
        rollout = rollouts.get(version.version)
        return "-" if rollout is None else f"{rollout.state}, step {rollout.step}"

    versions = outcome.versions
    return format_table(
        [version.version for version in versions],
        {
            "orders": [str(version.orders) for version in versions],
            "failed": [str(version.failed) for version in versions],
            "failed, and would not on the first version": [str(version.failed_by_version) for version in versions],
            "did not end as the version ends them": [str(len(version.unexpected)) for version in versions],
            "rollout": [describe_rollout(version) for version in versions],
        },
    )


def _format_decisions(rollouts: list[RolloutRecord]) -> str:
    """A column for every rollout, with the numbers of its last decision."""

    def describe_side(side: SideNumbers) -> str:
        """How many of the finished instances failed."""
        return f"{side.failed} of {side.finished}"

    return format_table(
        [rollout.version for rollout in rollouts],
        {
            "failed of finished, candidate": [describe_side(rollout.evidence.candidate) for rollout in rollouts],
            "failed of finished, baseline": [describe_side(rollout.evidence.baseline) for rollout in rollouts],
            "evidence of unhealthy": [f"{rollout.evidence.unhealthy:.3g}" for rollout in rollouts],
            "needed to abort": [f"{rollout.evidence.threshold:.3g}" for rollout in rollouts],
            "decided by": [rollout.code for rollout in rollouts],
            "seconds from start to end": [f"{rollout.ended_at - rollout.began_at:.0f}" for rollout in rollouts],
        },
    )


def _format_comparison(outcome: DemoOutcome) -> str:
    """A column with the rollout, and one without."""
    unguarded = outcome.unguarded
    bad_version = outcome.bad.version
    return format_table(
        ["with the rollout", "without"],
        {
            "orders": [str(outcome.order_count), str(unguarded.orders)],
            f"orders that {bad_version} got": [str(outcome.bad.orders), str(unguarded.orders)],
            "failed": [str(sum(version.failed for version in outcome.versions)), str(unguarded.failed)],
            f"failed because of {bad_version}": [
                str(outcome.failed_by_bad_version),
                str(unguarded.failed_by_version),
            ],
        },
    )
