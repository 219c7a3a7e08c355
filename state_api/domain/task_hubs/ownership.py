"""Ownership of task hubs: the proof that what a provider has under a claimed name belongs to the app."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from state_api.domain.instants import Instant


class ProofBasis(StrEnum):
    """Why a task hub at its provider belongs to the app that claimed its name."""

    NEW = "New"
    """The provider had nothing under this name when the claim was made."""
    ADOPTED = "Adopted"
    """An administrator adopted the task hub with PutApp."""


@dataclass(frozen=True, slots=True)
class ExistingArtifacts:
    """The artifacts that a provider has under the name of a task hub.

    `artifacts` are named as in Azure. `addresses` are those of the services that were asked, without secrets."""

    artifacts: tuple[str, ...]
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProviderUnavailable:
    """Why a provider could not be asked what exists under a name. `message` is one line for people."""

    message: str
    retry_after_seconds: int


@dataclass(frozen=True, slots=True)
class OwnershipProof:
    """Proves a claim for the services at these addresses."""

    basis: ProofBasis
    addresses: tuple[str, ...]
    at: Instant

    def covers(self, addresses: Iterable[str]) -> bool:
        """Whether the claim is proven for all of these addresses."""
        return set(addresses) <= set(self.addresses)


@dataclass(frozen=True, slots=True)
class TaskHubClaim:
    """A claim on a task hub name. Without a `proof` it reserves the name on this server and says nothing about the
    provider."""

    app: str
    proof: OwnershipProof | None = None


_DEFAULT_PORTS = {"https": 443, "http": 80}


def normalize_address(url: str) -> str:
    """The address in a form that can be compared: without credentials, signature, default port and final slash."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port
    return (
        f"{parts.scheme}://{f'[{host}]' if ':' in host else host}"
        f"{'' if port is None or port == _DEFAULT_PORTS.get(parts.scheme) else f':{port}'}{parts.path.rstrip('/')}"
    )


def explain_not_owned(task_hub: str, proof: OwnershipProof | None, addresses: Iterable[str]) -> str | None:
    """Why nothing of this task hub may be deleted at these addresses. None if the proof covers all of them."""
    if proof is None:
        missing = (
            f"nothing proves that task hub {task_hub} belongs to this app, because its provider was not asked when the "
            "name was claimed"
        )
    elif not proof.covers(addresses):
        elsewhere = sorted(set(addresses) - set(proof.addresses))
        missing = (
            f"the claim on task hub {task_hub} is proven for {', '.join(proof.addresses)}, but not for "
            f"{', '.join(elsewhere)}"
        )
    else:
        return None
    return (
        f"{missing}. Cleanup does not delete it. If it belongs to this app, delete its tables, queues and containers "
        "by hand. If Cleanup has not removed its records yet, an administrator can adopt it instead: PutApp with "
        f'adoptTaskHubs ["{task_hub}"]'
    )
