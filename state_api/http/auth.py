"""Who asks, and may they? The server's own keys, their roles and the apps that they are bound to decide, on every
host."""

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import Depends, Header, Request
from starlette.datastructures import Headers, QueryParams

from state_api.domain.names import RUN_URL_PATTERN
from state_api.domain.releases.apps import Caller
from state_api.http.problems import Forbidden, KeysNotConfigured, Unauthorized
from state_api.settings import STATE_KEYS, AccessKey, Role, Settings

KEY_HEADERS = ("x-functions-key", "aeg-sas-key")
KEY_PARAMETER = "code"
HEALTH_PATH = "/api/health"
ANONYMOUS_PATHS = (HEALTH_PATH, "/api/health/ready", "/api/openapi.json")

_MAX_ACTOR_CHARACTERS = 200


def authenticate(keys: Sequence[AccessKey], headers: Headers, query: QueryParams) -> AccessKey | None:
    """The key that was sent; None if it is not known. Compares the SHA-256 of what was sent with that of every key,
    so the time it takes depends on neither."""
    sent = [headers[name] for name in KEY_HEADERS if name in headers] + query.getlist(KEY_PARAMETER)
    found: AccessKey | None = None
    for value in sent:
        digest = hashlib.sha256(value.encode()).hexdigest()
        for key in keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key
    return found


def check_key(settings: Settings, path: str, headers: Headers, query: QueryParams) -> AccessKey | None:
    """The key of this request, None where none is needed. Raises Unauthorized, KeysNotConfigured."""
    if not settings.keys:
        if settings.keys_required and path != HEALTH_PATH:
            raise KeysNotConfigured(
                f"this server has no keys: set the app setting {STATE_KEYS}. `safe-deploy keys new` makes a key "
                "and its entry"
            )
        return None
    if path in ANONYMOUS_PATHS:
        return None
    key = authenticate(settings.keys, headers, query)
    if key is None:
        raise Unauthorized("send a key that this server knows in the header x-functions-key")
    return key


def access_key_of(request: Request) -> AccessKey | None:
    """The key that this request was made with; None on a server without keys."""
    key: AccessKey | None = request.scope.get("state", {}).get("key")
    return key


def require_role(*roles: Role, across_apps: bool = False) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets only these roles pass, and admin always. A key that is bound to apps passes where the
    path names one of them. With `across_apps` the operation itself limits its answer to these apps. Raises
    Forbidden."""

    async def check(request: Request) -> None:
        key = access_key_of(request)
        if key is None:
            return
        if key.role is not Role.ADMIN and key.role not in roles:
            needed = " or ".join([*roles, Role.ADMIN])
            raise Forbidden(f"key {key.name} has the role {key.role}; this needs {needed}")
        if key.apps is None or across_apps:
            return
        app = request.path_params.get("app")
        if app is None:
            raise Forbidden(f"key {key.name} is bound to apps; this needs a key that is bound to none")
        if not key.may_access(app):
            raise Forbidden(f"key {key.name} is bound to other apps; this needs a key for app {app[:60]}")

    return check


READ = Depends(require_role(Role.READER, Role.DEPLOYER))
READ_ACROSS_APPS = Depends(require_role(Role.READER, Role.DEPLOYER, across_apps=True))
DEPLOY = Depends(require_role(Role.DEPLOYER))
PUBLISH = Depends(require_role(Role.PUBLISHER))
ADMINISTER = Depends(require_role())


async def _get_visible_apps(request: Request) -> tuple[str, ...] | None:
    key = access_key_of(request)
    return key.apps if key else None


VisibleApps = Annotated[tuple[str, ...] | None, Depends(_get_visible_apps)]
"""The only apps that the request may see; None where its key is bound to none."""


def may_see_reasons(request: Request) -> bool:
    """Whether the caller may see why instances failed. Reasons can hold data of the app, so readers may not."""
    key = access_key_of(request)
    return key is None or key.role in (Role.ADMIN, Role.DEPLOYER)


def check_task_hub_access(app: str | None, key: AccessKey | None) -> None:
    """Raises Forbidden unless the key may see a task hub that `app`, or nobody, has claimed."""
    if key is not None and key.apps is not None and (app is None or not key.may_access(app)):
        raise Forbidden(f"key {key.name} is bound to apps, and none of them has claimed this task hub")


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
    key = access_key_of(request)
    # Only a platform with authentication switched on strips what callers put into this header themselves.
    principal = request.headers.get("x-ms-client-principal-name") if settings.trust_platform_identity else None
    name = _strip_control_characters(principal or x_actor)[:_MAX_ACTOR_CHARACTERS] or (
        f"key {key.name}" if key else "anonymous"
    )
    return Caller(name, x_run_url or None, key.name if key else None)


CallerDependency = Annotated[Caller, Depends(caller_of)]


def _strip_control_characters(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "", text).strip()
