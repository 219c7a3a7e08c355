"""What a caller asks of the releases of an app: one frozen value per operation."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from state_api.domain.releases.commands import Command


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterReleaseCommand(Command):
    """PostRelease. `take_over` overrides another run's open deployment and needs a reason."""

    version: str
    task_hub: str
    address: str
    take_over: bool = False


class RemovalOutcome(StrEnum):
    """What a caller reports about the deletion of a release's Function App."""

    PENDING = "Pending"
    DONE = "Done"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveReleaseCommand(Command):
    """DeleteRelease.

    `is_conditional`: the request had an ETag in If-Match (not `*`), so its outcome is about the removal that its caller
    has read.
    """

    version: str
    outcome: RemovalOutcome
    is_conditional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteCommand(Command):
    """PutRouting. Without a `split`, the active release gets all requests."""

    active: str
    split: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRouterCommand(Command):
    """ForgetRouter: do not wait for this router any more."""

    router: str
