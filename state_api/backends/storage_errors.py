"""What the errors of Azure's storage libraries mean for reading or deleting a task hub. Hides the libraries' exceptions
and their texts, which can contain secrets."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import aiohttp
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ServiceRequestError

from state_api.backends.protocols import ArtifactKind, BackendError, ReadFailure
from state_api.storage.tables import error_code

DataRole = Literal["Reader", "Contributor"]
"""The part of a role's name that says what it permits: Storage Table Data Reader, Storage Queue Data Contributor."""

SERVICE_NAMES = {ArtifactKind.TABLE: "Table", ArtifactKind.QUEUE: "Queue", ArtifactKind.CONTAINER: "Blob"}
"""The storage service that keeps each kind of artifact, as connection strings, settings and roles name it."""

NOT_FOUND_CODES = frozenset(
    f"{resource}{suffix}"
    for resource in ("Resource", "Table", "Queue", "Container")
    for suffix in ("NotFound", "BeingDeleted")
)
"""The services' error codes for a resource that does not exist (any more)."""

_PARSE_ERRORS = (AttributeError, KeyError, TypeError, ValueError)
"""What the libraries raise when a response is not that of a storage account."""


@asynccontextmanager
async def translate_account_errors(setting_name: str, kind: ArtifactKind, role: DataRole) -> AsyncIterator[None]:
    """Turn the libraries' errors into BackendError. `setting_name` is the setting that leads to the storage account;
    `role` is what this server needs on artifacts of this kind."""
    account = f"the storage account of the setting {setting_name}"
    try:
        yield
    except HttpResponseError as error:
        raise _response_error(account, kind, role, error) from None
    except ServiceRequestError:
        raise BackendError(
            ReadFailure.FAILED,
            f"{account} cannot be reached for its {kind}s: check that the account exists and that its network rules "
            "let this server in",
        ) from None
    except (AzureError, aiohttp.ClientError, OSError, *_PARSE_ERRORS) as error:
        raise _unexpected_response_error(account, kind, error) from None


def retry_after_seconds(error: HttpResponseError) -> int | None:
    """Return the number of seconds in the response's Retry-After header; None if there is none."""
    headers: Mapping[str, str] = getattr(error.response, "headers", {})
    value = headers.get("Retry-After", "")
    return int(value) if value.isdigit() else None


def _response_error(account: str, kind: ArtifactKind, role: DataRole, error: HttpResponseError) -> BackendError:
    """The error for a response that refuses a request, with what to do about it."""
    status, code = error.status_code, error_code(error) or type(error).__name__
    if isinstance(error, ClientAuthenticationError) or status in (401, 403):
        return BackendError(
            ReadFailure.DENIED,
            f"{account} refuses this server access to its {kind}s ({code}): give the server's identity the role "
            f"Storage {SERVICE_NAMES[kind]} Data {role} on that account, or correct the connection string",
        )
    if status in (429, 503) or code == "ServerBusy":
        message = f"{account} asks to wait before its {kind}s are used again ({status})"
        return BackendError(ReadFailure.THROTTLED, message, retry_after_seconds(error))
    if status is None or status < 300:
        return _unexpected_response_error(account, kind, error)
    if status < 400:
        problem = f"redirects ({status}) requests for its {kind}s, and this server does not follow redirects"
    else:
        problem = f"answers {status} ({code}) to a request for its {kind}s"
    return BackendError(ReadFailure.FAILED, f"{account} {problem}")


def _unexpected_response_error(account: str, kind: ArtifactKind, error: Exception) -> BackendError:
    """The error for a response that the library cannot read."""
    return BackendError(
        ReadFailure.FAILED,
        f"{account} sent an incomplete or unexpected response to a request for its {kind}s ({type(error).__name__})",
    )
