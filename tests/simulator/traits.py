"""What the platform and the transport of one history are like, drawn from its seed."""

import random
from dataclasses import dataclass

PAGES = (1000, 1, 2, 3)
"""Rows that the storage gives at a time. One process reads all its task hubs in pages of one size."""


@dataclass(frozen=True, slots=True)
class Traits:
    """`terminated` is the status that the extension publishes for a terminated instance, None if it publishes nothing.
    `skews` are how far the clocks of the workers are off, in seconds. `moving` is how often the world moves before the
    server's next read of the hub, 0 if it stands still while somebody asks."""

    seed: int
    steps: int
    roots: int
    loss: float
    doubled: float
    late: float
    crash: float
    slow: float
    terminated: str | None
    skews: tuple[float, ...]
    moving: float
    page: int

    @classmethod
    def of(cls, seed: int) -> "Traits":
        rng = stream(seed, "traits")
        page = PAGES[seed % len(PAGES)]
        return cls(
            seed=seed,
            steps=rng.randint(5, 25),
            roots=rng.randint(1, 6),
            loss=rng.choice((0.0, 0.1, 0.2, 0.4, 0.4)),
            doubled=rng.choice((0.0, 0.1, 0.3)),
            late=rng.choice((0.0, 0.2, 0.5)),
            crash=rng.choice((0.0, 0.1, 0.2)),
            slow=rng.choice((0.0, 0.2, 0.4)),
            # Extensions publish nothing, Completed, or Terminated (PLATFORM: Lifecycle events 4).
            terminated=rng.choice((None, None, "Completed", "Terminated")),
            skews=tuple(rng.uniform(-0.25, 0.25) for _ in range(rng.randint(1, 4))),
            moving=rng.choice((0.0, 0.1, 0.3, 0.6)) if page < PAGES[0] else rng.choice((0.0, 0.0, 0.5)),
            page=page,
        )


def stream(seed: int, name: str) -> random.Random:
    """A source of chance of its own for each purpose, so that what happens more or less often in one of them, because
    the server was slower, changes nothing in the others."""
    return random.Random(f"{seed}/{name}")
