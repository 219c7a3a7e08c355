"""Who asks, and may they? In Azure Functions the platform has checked its keys before a request arrives here; outside,
the server's own keys and their roles decide."""

import hmac
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import Depends, Header, Request
from starlette.datastructures import Headers, QueryParams

from state_api.domain.apps import Caller
from state_api.domain.names import RUN_URL_PATTERN
from state_api.http.problems import Forbidden, Unauthorized
from state_api.settings import Key, Role, Settings

KEY_HEADERS = ("x-functions-key", "aeg-sas-key")
KEY_PARAMETER = "code"
ANONYMOUS = ("/api/health", "/api/health/ready", "/api/openapi.json")

_LONGEST_ACTOR = 200


def authenticate(keys: Sequence[Key], headers: Headers, query: QueryParams) -> Key | None:
    """The key that was sent; None if it is not known. Takes as long whichever key matches, or none."""
    sent = [headers[name] for name in KEY_HEADERS if name in headers] + query.getlist(KEY_PARAMETER)
    found: Key | None = None
    for value in sent:
        for key in keys:
            if hmac.compare_digest(value.encode(), key.key.get_secret_value().encode()):
                found = key
    return found


def check_key(settings: Settings, path: str, headers: Headers, query: QueryParams) -> Key | None:
    """The key of this request, None where none is needed. Raises Unauthorized."""
    if not settings.keys or path in ANONYMOUS:
        return None
    key = authenticate(settings.keys, headers, query)
    if key is None:
        raise Unauthorized("send a key that this server knows in the header x-functions-key")
    return key


def allows(*roles: Role) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets only these roles pass, and admin always. Raises Forbidden."""

    async def check(request: Request) -> None:
        key: Key | None = request.scope.get("state", {}).get("key")
        if key is not None and key.role is not Role.ADMIN and key.role not in roles:
            needed = " or ".join([*roles, Role.ADMIN])
            raise Forbidden(f"key {key.name} has the role {key.role}; this needs {needed}")

    return check


READ = Depends(allows(Role.READER, Role.DEPLOYER))
DEPLOY = Depends(allows(Role.DEPLOYER))
PUBLISH = Depends(allows(Role.PUBLISHER))
ADMINISTER = Depends(allows())


async def caller_of(
    request: Request,
    x_actor: Annotated[
        str, Header(description="Who asks, for the audit log. Ignored where the platform names the caller.")
    ] = "",
    x_run_url: Annotated[
        str,
        Header(
            pattern=RUN_URL_PATTERN,
            max_length=2000,
            description="The pipeline run's http(s) address: identifies the run that deploys.",
        ),
    ] = "",
) -> Caller:
    """The caller as the audit log names it."""
    settings: Settings = request.app.state.settings
    key: Key | None = request.scope.get("state", {}).get("key")
    # Only a platform with authentication switched on strips what callers put into this header themselves.
    principal = request.headers.get("x-ms-client-principal-name") if settings.platform_identity else None
    name = _printable(principal or x_actor)[:_LONGEST_ACTOR] or (f"key {key.name}" if key else "anonymous")
    return Caller(name, x_run_url or None, key.name if key else None)


CallerOf = Annotated[Caller, Depends(caller_of)]


def _printable(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "", text).strip()
