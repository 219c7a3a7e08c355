"""The operations of the application: their routes, their OpenAPI descriptions and their roles."""

import asyncio
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts

from state_api.app import openapi_document
from state_api.http import problems
from state_api.settings import (
    AccessKey,
    Role,
)


def routes(api: FastAPI) -> dict[str, APIRoute]:
    """The routes of the operations, by operation id."""
    all_routes = [context.original_route for context in iter_route_contexts(api.routes)]
    by_operation = {
        route.operation_id: route for route in all_routes if isinstance(route, APIRoute) and route.operation_id
    }
    assert by_operation.keys() == {operation["operationId"] for _, _, operation in operations(api)}
    return by_operation


def operations(api: FastAPI) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and OpenAPI description of each operation."""
    for path, methods in openapi_document(api)["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def is_allowed(route: APIRoute, role: Role) -> bool:
    """Whether a key of this role may call the operation."""
    key = AccessKey(name="test", role=role, sha256="0" * 64)
    request = Request({"type": "http", "state": {"key": key}})
    try:
        for dependency in route.dependencies:
            assert dependency.dependency is not None
            asyncio.run(dependency.dependency(request))
    except problems.Forbidden:
        return False
    return True
