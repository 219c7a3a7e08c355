"""Runs a policy of API Management on requests, with its expressions compiled and run as C#."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.platform_programs import program_path
from safe_deploy.client import Json

SERVER = "https://state.example"
ROUTING_URL = f"{SERVER}/api/apps/shop/routing"
_GATEWAY = "https://api.example"


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What a policy did with a request. `address` is None if it responded itself, with `status`."""

    address: str | None
    status: int | None
    set_cookies: tuple[str, ...]
    has_fetched: bool
    request_headers: dict[str, list[str]]


def build_case(
    now: float,
    server_response: Json | None,
    target: str = "/orders",
    headers: Sequence[tuple[str, str]] = (),
    *,
    method: str = "GET",
) -> Json:
    """A request at a time in seconds. `server_response` is the state server's, with status and body; None if it does
    not respond."""
    sent: dict[str, list[str]] = {}
    for name, value in headers:
        sent.setdefault(name, []).append(value)
    request = {"method": method, "url": f"{_GATEWAY}{target}", "headers": sent}
    return {"now": now, "request": request, "fetch": {ROUTING_URL: server_response}}


def run_policy(policy: str, cases: Sequence[Json], folder: Path) -> list[PolicyResult]:
    """Run the requests in their order, with one cache."""
    path = folder / "policy.xml"
    path.write_text(policy)
    process = subprocess.run(
        [program_path("policy-check"), path],
        input=json.dumps({"namedValues": {"safe-deploy-router-key": "router-key"}, "cases": list(cases)}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr or process.stdout
    return [_parse_result(result) for result in json.loads(process.stdout)]


def _parse_result(result: dict[str, Any]) -> PolicyResult:
    """What the policy has done with a request, as the program that runs it prints it."""
    response = result.get("response")
    return PolicyResult(
        address=None if response else result["backend"],
        status=response["status"] if response else None,
        set_cookies=tuple(result["responseHeaders"].get("Set-Cookie", [])),
        has_fetched=bool(result["fetched"]),
        request_headers=result["requestHeaders"],
    )
