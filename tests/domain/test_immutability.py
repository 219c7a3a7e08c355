"""All dataclasses of the domain are frozen, so that a decision can be repeated on the same values."""

import dataclasses

import pytest

from state_api.domain.readiness import evidence, exemptions, messages, policy, reasons, verdict
from state_api.domain.releases import staging as releases
from state_api.domain.releases.side_by_side import (
    adoption,
    commands,
    documents,
    registration,
    removal,
    routing,
    verdicts,
)
from state_api.domain.releases.side_by_side import releases as side_by_side_releases
from state_api.domain.rollouts import analysis, durations, health, intervals, logrank
from state_api.domain.task_hubs import lifecycle, observations, timeline


def list_value_types() -> list[type]:
    """The dataclasses of the domain."""
    modules = (
        *(evidence, exemptions, messages, policy, reasons, verdict, lifecycle, observations, releases),
        *(adoption, commands, documents, registration, removal, routing, side_by_side_releases, verdicts),
        *(analysis, durations, health, intervals, logrank, timeline),
    )
    kinds = [kind for module in modules for kind in vars(module).values()]
    return sorted({kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)}, key=str)


@pytest.mark.parametrize("kind", list_value_types(), ids=lambda kind: str(kind.__name__))
def test_a_domain_value_cannot_be_changed_or_get_further_members(kind: type) -> None:
    value: object = object.__new__(kind)
    for name in [field.name for field in dataclasses.fields(kind)]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)
    assert not hasattr(value, "__dict__")
