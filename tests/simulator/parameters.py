"""The parameters of platform and transport of one history, drawn from its seed."""

import random
from dataclasses import dataclass

PAGE_SIZES = (1000, 1, 2, 3)
"""Rows in a page. All task hubs of a process are read in pages of one size."""


@dataclass(frozen=True, slots=True)
class SimulationParameters:
    """The properties of one simulated history.

    - `terminated_status`: the status that the extension publishes for a terminated instance. None if it publishes
      nothing.
    - `clock_skews`: how far the clocks of the workers are off, in seconds.
    - `move_probability`: the probability that the platform makes a move before the server's next read of the task hub.
      0 if the platform makes no move during a request.
    - `page_size`: rows in a page of a scan.
    - `messages_unseen`: the server does not read the control queues, as with the management API.
    """

    seed: int
    steps: int
    root_instances: int
    loss_probability: float
    duplicate_probability: float
    long_delay_probability: float
    crash_probability: float
    slow_probability: float
    terminated_status: str | None
    clock_skews: tuple[float, ...]
    move_probability: float
    page_size: int
    messages_unseen: bool

    @classmethod
    def from_seed(cls, seed: int) -> "SimulationParameters":
        """Draw the parameters. The same seed gives the same ones."""
        rng = seeded_random(seed, "traits")
        page_size = PAGE_SIZES[seed % len(PAGE_SIZES)]
        return cls(
            seed=seed,
            steps=rng.randint(5, 25),
            root_instances=rng.randint(1, 6),
            loss_probability=rng.choice((0.0, 0.1, 0.2, 0.4, 0.4)),
            duplicate_probability=rng.choice((0.0, 0.1, 0.3)),
            long_delay_probability=rng.choice((0.0, 0.2, 0.5)),
            crash_probability=rng.choice((0.0, 0.1, 0.2)),
            slow_probability=rng.choice((0.0, 0.2, 0.4)),
            # Extensions publish nothing, Completed, or Terminated (PLATFORM: Lifecycle events 4).
            terminated_status=rng.choice((None, None, "Completed", "Terminated")),
            clock_skews=tuple(rng.uniform(-0.25, 0.25) for _ in range(rng.randint(1, 4))),
            move_probability=rng.choice((0.0, 0.1, 0.3, 0.6))
            if page_size < PAGE_SIZES[0]
            else rng.choice((0.0, 0.0, 0.5)),
            page_size=page_size,
            messages_unseen=rng.random() < 0.3,
        )


def seeded_random(seed: int, name: str) -> random.Random:
    """A separate random source for each purpose, so that timing differences in one do not change the others."""
    return random.Random(f"{seed}/{name}")
