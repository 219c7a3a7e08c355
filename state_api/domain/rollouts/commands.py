"""What a caller asks of a rollout: one frozen value per operation."""

from dataclasses import dataclass

from state_api.domain.releases.commands import Command
from state_api.domain.rollouts.analysis import Analysis
from state_api.domain.rollouts.rollouts import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRolloutCommand(Command):
    """PutRollout. Releases side by side have a `version`; of an app with slots, it is a `slot`, staging by default."""

    steps: tuple[Step, ...]
    analysis: Analysis
    version: str | None = None
    slot: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRolloutCommand(Command):
    """PostRollout with pause, resume, abort or finish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmWeightCommand(Command):
    """PostRollout with confirm: the slot has this percentage in Azure, as was read there."""

    weight: int
