"""Authentication and authorization: the access key of a request, its role, and the apps that it is bound to. The same
rules hold on every host."""

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
HOME_PATH = "/"
HEALTH_PATH = "/api/health"
ANONYMOUS_PATHS = (HOME_PATH, HEALTH_PATH, "/api/health/ready", "/api/openapi.json")

_MAX_ACTOR_CHARACTERS = 200


def authenticate(keys: Sequence[AccessKey], headers: Headers, query: QueryParams) -> AccessKey | None:
    """The access key that a header or the query contains; None if the server does not know it. Compares the digest with
    that of every key in constant time, so that the duration reveals nothing about the keys."""
    sent_keys = [headers[name] for name in KEY_HEADERS if name in headers] + query.getlist(KEY_PARAMETER)
    matching_key: AccessKey | None = None
    for sent_key in sent_keys:
        digest = hashlib.sha256(sent_key.encode()).hexdigest()
        for key in keys:
            if hmac.compare_digest(digest, key.sha256):
                matching_key = key
    return matching_key


def check_key(settings: Settings, path: str, headers: Headers, query: QueryParams) -> AccessKey | None:
    """The access key of this request; None if the path or the server needs none. Raises Unauthorized,
    KeysNotConfigured."""
    if not settings.keys:
        if settings.keys_required and path not in (HOME_PATH, HEALTH_PATH):
            raise KeysNotConfigured(
                f"this server has no keys: set the app setting {STATE_KEYS}. `safe-deploy keys new` creates a key "
                "and its entry"
            )
        return None
    if path in ANONYMOUS_PATHS:
        return None
    key = authenticate(settings.keys, headers, query)
    if key is None:
        raise Unauthorized(
            "the key is missing or unknown: send a key that this server knows in the header x-functions-key"
        )
    return key


def access_key_of(request: Request) -> AccessKey | None:
    """The access key of this request; None on a server without keys."""
    key: AccessKey | None = request.scope.get("state", {}).get("key")
    return key


def require_role(*roles: Role, across_apps: bool = False) -> Callable[[Request], Awaitable[None]]:
    """A dependency that raises Forbidden unless the key has one of these roles or is an admin's. A key that is bound to
    apps must be bound to the app in the path. With `across_apps` this is not checked, because the operation itself
    limits its response to the apps of the key."""

    async def check(request: Request) -> None:
        """Raises Forbidden if the key of the request has none of the roles, or is bound to apps other than that of the
        path."""
        key = access_key_of(request)
        if key is None:
            return
        if key.role is not Role.ADMIN and key.role not in roles:
            sufficient_roles = " or ".join([*roles, Role.ADMIN])
            raise Forbidden(
                f"key {key.name} has the role {key.role}; this operation needs a key with the role {sufficient_roles}"
            )
        if key.apps is None or across_apps:
            return
        app = request.path_params.get("app")
        if app is None:
            raise Forbidden(f"key {key.name} is bound to apps; this operation needs a key for all apps")
        if not key.may_access(app):
            raise Forbidden(
                f"key {key.name} is bound to other apps; use a key for app {app[:60]}", requestedApp=app[:60]
            )

    return check


READ = Depends(require_role(Role.READER, Role.DEPLOYER))
READ_ACROSS_APPS = Depends(require_role(Role.READER, Role.DEPLOYER, across_apps=True))
READ_ROUTING = Depends(require_role(Role.ROUTER, Role.DEPLOYER))
DEPLOY = Depends(require_role(Role.DEPLOYER))
check_may_publish = require_role(Role.PUBLISHER)
PUBLISH = Depends(check_may_publish)
ADMINISTER = Depends(require_role())


async def _get_visible_apps(request: Request) -> tuple[str, ...] | None:
    """The only apps that the request may read. None means all apps: the key is not bound to apps, or the server has no
    keys."""
    key = access_key_of(request)
    return key.apps if key else None


VisibleApps = Annotated[tuple[str, ...] | None, Depends(_get_visible_apps)]
"""The only apps that the request may read; None means all apps."""


def may_see_reasons(request: Request) -> bool:
    """Whether the caller may read why instances failed. Keys with the role reader may not, because a reason is text
    that the app wrote and can contain its data."""
    key = access_key_of(request)
    return key is None or key.role in (Role.ADMIN, Role.DEPLOYER)


def check_may_acknowledge(key: AccessKey | None) -> None:
    """Raises Forbidden unless the key may acknowledge a routing document in the name of a router. Keys with the role
    deployer may not: releases are removed by what routers acknowledge."""
    if key is not None and key.role not in (Role.ROUTER, Role.ADMIN):
        raise Forbidden(
            f"key {key.name} has the role {key.role}; GetRouting with `router` acknowledges a document and needs a key "
            f"with the role {Role.ROUTER} or {Role.ADMIN}. Leave out `router` to read the document"
        )


def check_task_hub_access(app: str | None, key: AccessKey | None) -> None:
    """Raises Forbidden unless the key may read a task hub that `app` has claimed, or no app if it is None."""
    if key is not None and key.apps is not None and (app is None or not key.may_access(app)):
        raise Forbidden(f"key {key.name} is bound to apps, none of which has claimed this task hub")


async def caller_of(
    request: Request,
    x_actor: Annotated[
        str,
        Header(description="The caller, for the audit log. Ignored if App Service authentication names the caller."),
    ] = "",
    x_run_url: Annotated[
        str,
        Header(
            pattern=RUN_URL_PATTERN,
            max_length=2000,
            description="The http(s) address of the pipeline run. It identifies the run that deploys.",
        ),
    ] = "",
) -> Caller:
    """The caller for the audit log: a name, the address of the pipeline run, and the name of the key."""
    settings: Settings = request.app.state.settings
    key = access_key_of(request)
    # Only with App Service authentication does Azure remove this header from the requests of callers.
    principal = request.headers.get("x-ms-client-principal-name") if settings.trust_platform_identity else None
    name = _strip_control_characters(principal or x_actor)[:_MAX_ACTOR_CHARACTERS] or (
        f"key {key.name}" if key else "anonymous"
    )
    return Caller(name, x_run_url or None, key.name if key else None)


CallerDependency = Annotated[Caller, Depends(caller_of)]


def _strip_control_characters(text: str) -> str:
    """The text of a header without characters that would break a line of the log."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "", text).strip()
