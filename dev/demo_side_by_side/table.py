"""The table at the end of the demo."""

from collections.abc import Callable

from dev.demo.output import format_table
from dev.demo_side_by_side.results import ROUTING_LIMIT_SECONDS, DemoOutcome, ReleaseResult


def format_outcome(outcome: DemoOutcome, began_at: float) -> str:
    """A column for every release, and below it the times of each switch. Points in time are seconds since
    `began_at`."""

    def seconds(time: float | None) -> str:
        """A point in time; empty if it has not come."""
        return "" if time is None else f"{time - began_at:.0f}"

    def traffic(release: ReleaseResult) -> str:
        """From when to when a release had traffic."""
        return ", ".join(f"{seconds(start)}-{seconds(end)}" for start, end in release.traffic)

    cells: dict[str, Callable[[ReleaseResult], str]] = {
        "orders started": lambda release: str(release.started),
        "ended on the release they began on": lambda release: str(release.ended),
        "ended elsewhere": lambda release: str(release.ended_elsewhere),
        "failed": lambda release: str(release.failed),
        "customers pinned by the split": lambda release: str(release.pinned_customers),
        "had traffic, from second to second": traffic,
        "retired at second": lambda release: seconds(release.retired_at) or "-",
    }
    rows = {name: [cell(release) for release in outcome.releases] for name, cell in cells.items()}
    switches = {
        switch.name: [switch.from_version, f"{switch.seconds:.2f}", f"{switch.seconds_since_command:.2f}"]
        for switch in outcome.switches
    }
    return "\n".join(
        [
            format_table([release.version for release in outcome.releases], rows),
            "",
            f"  Seconds until the last request to the old release (limit: {ROUTING_LIMIT_SECONDS} s from the change)",
            format_table(["old release", "from the change", "from the command"], switches),
            "",
            f"  Requests of customers to any release: {outcome.requests}, failed: {len(outcome.failed_requests)}",
        ]
    )
