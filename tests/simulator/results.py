"""The results of a run of the simulator."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.simulator.verdict_checker import NeverReady, WrongVerdict


@dataclass(frozen=True, slots=True)
class SimulationFailure:
    """What was wrong in one history, with its log. `histories` is the number of histories that had begun by then."""

    seed: int
    error: WrongVerdict | NeverReady
    log: str
    histories: int

    def __str__(self) -> str:
        """The error, the command that repeats the history, and its log."""
        replay = f"python -m tests.simulator --histories 1 --seed {self.seed}"
        return f"{type(self.error).__name__}: {self.error}\nreplay: {replay}\n{self.log}\n"


@dataclass(slots=True)
class SimulationResults:
    """The failures of a run, and how often each case occurred. `tally` counts the cases by name."""

    tally: Counter[str] = field(default_factory=Counter)
    failures: list[SimulationFailure] = field(default_factory=list)
    seconds: float = 0.0

    def failures_of(self, kind: type[Exception]) -> list[SimulationFailure]:
        """The failures with an error of this type."""
        return [failure for failure in self.failures if isinstance(failure.error, kind)]

    def missing_cases(self) -> list[str]:
        """The cases that should be simulated and never occurred."""
        expected_cases = (*_PLATFORM_COUNTERS, *_TRANSPORT_COUNTERS, *_VERDICT_COUNTERS, *_EVENTS_ONLY_COUNTERS)
        return [name for name in expected_cases if name not in _RARE_COUNTERS and not self.tally[name]]

    def summary_line(self) -> str:
        """The results in one line."""
        tally = self.tally
        return (
            f"{tally['histories']} histories, {_count_verdict_requests(tally)} questions, "
            f"{tally['Ready']} times Ready, "
            f"{len(self.failures_of(WrongVerdict))} wrong, {len(self.failures_of(NeverReady))} stuck; by events alone "
            f"{tally['wrong by events alone']} wrong, {tally['stuck by events alone']} stuck; {self.seconds:.0f} s"
        )

    def markdown_tables(self) -> str:
        """The results as tables in Markdown."""
        tally = self.tally
        histories = tally["histories"] or 1
        wrong, stuck, drained = len(self.failures_of(WrongVerdict)), len(self.failures_of(NeverReady)), tally["drained"]
        summary = [
            "| | The server | Events alone |",
            "|---|---:|---:|",
            f"| Histories | {tally['histories']:,} | {tally['histories']:,} |",
            f"| Questions | {_count_verdict_requests(tally):,} | {_count_verdict_requests(tally):,} |",
            f"| Ready although something was active | {wrong:,} | {tally['wrong by events alone']:,} |",
            f"| Drained hubs | {drained:,} | {drained:,} |",
            f"| Drained hubs that did not become Ready | {stuck:,} | {tally['stuck by events alone']:,} |",
        ]
        parts = [
            ("The platform", _PLATFORM_COUNTERS),
            ("The transport", _TRANSPORT_COUNTERS),
            ("Questions and answers", _VERDICT_COUNTERS),
            ("Requests", _REQUEST_COUNTERS),
        ]
        tables = ["\n".join(summary)]
        for title, names in parts:
            rows = [f"| {name} | {tally[name]:,} | {tally[name] / histories:.1f} |" for name in names]
            tables.append("\n".join([f"| {title} | Number | A history |", "|---|---:|---:|", *rows]))
        return "\n\n".join(tables) + f"\n\n{self.seconds:.0f} s\n"


def _count_verdict_requests(tally: Counter[str]) -> int:
    """The number of requests for a verdict. Their counters are named `question`, a space, and the kind of the
    request."""
    return sum(number for name, number in tally.items() if name.startswith("question "))


def _counters_of(kind: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names of the counters of one kind."""
    return tuple(f"{kind} {name}" for name in names)


_PLATFORM_COUNTERS = (
    "start",
    "start delayed",
    "begin",
    "one episode",
    "go on",
    "progress",
    "crash",
    "slow checkpoint",
    "finish",
    "suspend",
    "resume",
    "terminate",
    "continue as new",
    "call",
    "hand over",
    "detach",
    "restart",
    "id taken again",
    "purge",
    "stale episode",
    "entity",
    *_counters_of("row", ("Completed", "Failed", "Terminated", "Suspended", "ContinuedAsNew")),
)
_TRANSPORT_COUNTERS = ("published", "lost", "duplicated", "delayed", "reordered", "deliveries")
_VERDICT_COUNTERS = (
    *_counters_of("question", ("fresh", "cached", "none", "waiting", "both", "stage", "at the end")),
    "nearly drained",
    "started after a drain",
    "asked again",
    "moves during a read",
    "Ready",
    "Ready before the end",
    "Ready by an earlier probe",
    "Ready, started since the probe",
    "staged",
    "Ready, a start in a queue that no event reported",
    "purged and started again",
    "purged and ended",
    "drained, messages unseen",
    "blocked, messages unseen",
)
_RARE_COUNTERS = ("Ready, a start in a queue that no event reported", "purged and ended", "blocked, messages unseen")
_EVENTS_ONLY_COUNTERS = ("wrong by events alone", "stuck by events alone")
_REQUEST_COUNTERS = ("API requests", "state storage requests", "provider requests", "provider writes")
