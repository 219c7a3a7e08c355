"""A question about a slot and its answer."""

from dataclasses import dataclass

from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.releases.apps import App, Caller, Slot


@dataclass(frozen=True, slots=True)
class StatusQuestion:
    """May this slot be overwritten? `mode`: how to verify the verdict."""

    app_name: str
    slot_name: str
    caller: Caller
    mode: VerificationMode


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """The verdict on a slot, with the app and the slot that it is about."""

    app: App
    slot_name: str
    slot: Slot | None
    verdict: Verdict
