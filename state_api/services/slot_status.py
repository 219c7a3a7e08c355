"""A question about a slot and its answer, and what requests that wait need to know of any question and answer."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from state_api.domain.instants import Instant
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.readiness.verdict import Verdict
from state_api.domain.readiness.waiting import NO_END
from state_api.domain.releases.apps import App, Caller, Slot


class WaitingQuestion(Protocol):
    """A question that requests wait for. Questions with the same `key` have the same answer."""

    @property
    def app_name(self) -> str: ...

    @property
    def mode(self) -> VerificationMode: ...

    @property
    def key(self) -> Hashable: ...


class WaitingStatus(Protocol):
    """An answer that requests wait for.

    - `task_hubs`: the task hubs that the verdict is about.
    - `blocked_until`: until when something else than the task hubs prevents a Ready; None if nothing else does.
    """

    @property
    def app(self) -> App: ...

    @property
    def verdict(self) -> Verdict: ...

    @property
    def task_hubs(self) -> tuple[str, ...]: ...

    @property
    def blocked_until(self) -> Instant | None: ...


@dataclass(frozen=True, slots=True)
class StatusQuestion:
    """May this slot be overwritten? `mode`: how to verify the verdict."""

    app_name: str
    slot_name: str
    caller: Caller
    mode: VerificationMode

    @property
    def key(self) -> Hashable:
        """Equal for questions with the same answer. A run is not blocked by its own deployment, so the run is part of
        it."""
        return "slot", self.slot_name.lower(), self.mode, self.caller.run_url


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """The verdict on a slot, with the app and the slot that it is about."""

    app: App
    slot_name: str
    slot: Slot | None
    verdict: Verdict

    @property
    def task_hubs(self) -> tuple[str, ...]:
        """All task hubs that the slot may hold. During a swap these can be several."""
        return tuple(hub.task_hub for hub in self.slot.possible_hubs()) if self.slot is not None else ()

    @property
    def blocked_until(self) -> Instant | None:
        """When another run's deployment or swap, or a rollout, stops to block."""
        evidence = self.verdict.evidence
        if evidence.pending_swap is not None:
            return NO_END
        ends = []
        if evidence.rollout is not None:
            ends.append(evidence.rollout.until or NO_END)
        if evidence.deployment is not None and self.app.deployment is not None:
            ends.append(self.app.deployment_expires_at(self.app.deployment))
        return max(ends, default=None)
