"""What a run of the simulator adds up to."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.simulator.judge import Stuck, Wrong


@dataclass(frozen=True, slots=True)
class Complaint:
    """What one history has shown to be wrong, and how it came to that. `histories` had begun by then."""

    seed: int
    error: Wrong | Stuck
    log: str
    histories: int

    def __str__(self) -> str:
        replay = f"python -m tests.simulator --histories 1 --seed {self.seed}"
        return f"{type(self.error).__name__}: {self.error}\nreplay: {replay}\n{self.log}\n"


@dataclass(slots=True)
class Results:
    """`tally` counts what happened."""

    tally: Counter[str] = field(default_factory=Counter)
    complaints: list[Complaint] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, kind: type[Exception]) -> list[Complaint]:
        return [one for one in self.complaints if isinstance(one.error, kind)]

    def missing(self) -> list[str]:
        """What never happened, of all that is to be simulated."""
        wanted = (*_PLATFORM, *_TRANSPORT, *_QUESTIONS, *_ALONE)
        return [name for name in wanted if name not in _RARE and not self.tally[name]]

    def line(self) -> str:
        """In a line."""
        tally = self.tally
        return (
            f"{tally['histories']} histories, {_questions(tally)} questions, {tally['Ready']} times Ready, "
            f"{len(self.of(Wrong))} wrong, {len(self.of(Stuck))} stuck; by events alone "
            f"{tally['wrong by events alone']} wrong, {tally['stuck by events alone']} stuck; {self.seconds:.0f} s"
        )

    def table(self) -> str:
        """As tables in Markdown."""
        tally = self.tally
        histories = tally["histories"] or 1
        wrong, stuck, drained = len(self.of(Wrong)), len(self.of(Stuck)), tally["drained"]
        summary = [
            "| | The server | Events alone |",
            "|---|---:|---:|",
            f"| Histories | {tally['histories']:,} | {tally['histories']:,} |",
            f"| Questions | {_questions(tally):,} | {_questions(tally):,} |",
            f"| Ready although something was active | {wrong:,} | {tally['wrong by events alone']:,} |",
            f"| Drained hubs | {drained:,} | {drained:,} |",
            f"| Drained hubs that did not become Ready | {stuck:,} | {tally['stuck by events alone']:,} |",
        ]
        parts = [
            ("The platform", _PLATFORM),
            ("The transport", _TRANSPORT),
            ("Questions and answers", _QUESTIONS),
            ("Requests", _REQUESTS),
        ]
        tables = ["\n".join(summary)]
        for title, names in parts:
            rows = [f"| {name} | {tally[name]:,} | {tally[name] / histories:.1f} |" for name in names]
            tables.append("\n".join([f"| {title} | Number | A history |", "|---|---:|---:|", *rows]))
        return "\n\n".join(tables) + f"\n\n{self.seconds:.0f} s\n"


def _questions(tally: Counter[str]) -> int:
    return sum(number for name, number in tally.items() if name.startswith("question "))


def _of(kind: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{kind} {name}" for name in names)


_PLATFORM = (
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
    *_of("row", ("Completed", "Failed", "Terminated", "Suspended", "ContinuedAsNew")),
)
_TRANSPORT = ("published", "lost", "doubled", "delayed", "reordered", "deliveries")
_QUESTIONS = (
    *_of("question", ("fresh", "cached", "none", "waiting", "both", "stage", "at the end")),
    "lull",
    "awakening",
    "moves during a read",
    "Ready",
    "Ready before the end",
    "Ready by an earlier probe",
    "Ready, started since the probe",
    "staged",
    "Ready, a start in a queue that no event told of",
)
_RARE = ("Ready, a start in a queue that no event told of",)
_ALONE = ("wrong by events alone", "stuck by events alone")
_REQUESTS = ("API requests", "state storage requests", "source requests", "source writes")
