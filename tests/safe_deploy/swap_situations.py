"""Records and observations for tests of the swap planner. The swap brings v42 into production, in place of v41."""

from typing import Any

from safe_deploy.slot_task_hubs import ObservedSlots, PendingSwap, RecordedSlots

RUN = "https://ci.example/runs/1"
OTHER_RUN = "https://ci.example/runs/2"
STARTED_AT = "2026-11-21T10:00:00Z"

PENDING_SWAP = PendingSwap(
    task_hub="v42",
    swapped_out="v41",
    slot="staging",
    rollback=False,
    by="ann",
    started_at=STARTED_AT,
    run_url=RUN,
)


def record(production: str | None, slot: str | None, **members: Any) -> RecordedSlots:
    """What the server has on record: the task hubs of production and of slot staging."""
    return RecordedSlots(**{"app": "shop", "slot_name": "staging", "production": production, "slot": slot, **members})


STAGED = record("v41", "v42")
PENDING = record("v42", "v41", pending_swap=PENDING_SWAP)
SWAPPED = record("v42", "v41")
FIRST_DEPLOYMENT = record(None, "v42")

AZURE_UNSWAPPED = ObservedSlots("v41", "v42")
AZURE_SWAPPED = ObservedSlots("v42", "v41")
