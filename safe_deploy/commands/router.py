"""The command `router`, which configures what is in front of releases side by side."""

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from safe_deploy.errors import UsageError
from safe_deploy.option_groups import CommonOptions, expand_option_groups
from safe_deploy.routers.api_management import render_policy
from safe_deploy.routers.documents import parse_routing_document
from safe_deploy.routers.envoy_folder import EnvoyFolder
from safe_deploy.routers.follower import EnvoyFollower
from safe_deploy.session import Session, open_session

router_commands = typer.Typer()

_ROUTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_SOCKET_PATH = 107
"""Bytes of a socket's path in Linux."""


class RouterTarget(StrEnum):
    ENVOY = "envoy"
    APIM = "apim"


@router_commands.command()
@expand_option_groups
def router(
    common: CommonOptions,
    *,
    target: Annotated[RouterTarget, typer.Option("--target", help="The router.")],
    out: Annotated[
        Path | None, typer.Option("--out", show_default=False, help="envoy: folder that Envoy and this command share.")
    ] = None,
    listen: Annotated[str, typer.Option("--listen", help="envoy: address and port for requests.")] = "127.0.0.1:8080",
    name: Annotated[
        str, typer.Option("--name", help="envoy: name of this router, for its acknowledgements; unique in the app.")
    ] = "envoy",
    once: Annotated[bool, typer.Option("--once", help="envoy: write the files once and exit.")] = False,
    render: Annotated[bool, typer.Option("--render", help="apim: print the policy.")] = False,
) -> None:
    """Follow the routing document and configure Envoy, or print a policy of API Management."""
    if target is RouterTarget.APIM:
        if not render:
            raise UsageError("--target apim prints a policy. Add --render")
        _print_policy(open_session(common))
        return
    if out is None or render:
        raise UsageError("--target envoy writes files: give their folder with --out, and omit --render")
    if not _ROUTER_NAME.fullmatch(name):
        raise UsageError("--name takes 1 to 64 letters, digits, dots, underscores and hyphens")
    address = parse_listen_address(listen)
    session = open_session(common)
    folder = EnvoyFolder(out, app=session.server.app, listen=address)
    if len(str(folder.admin_socket).encode()) > _MAX_SOCKET_PATH:
        raise UsageError("--out is too long for the path of a socket. Use a folder with a shorter path")
    follower = EnvoyFollower(session.server, folder, router=name, report=session.report)
    if once:
        document = follower.place_once()
        session.report(f"wrote revision {document.revision} to {folder.path}")
    else:
        follower.run()


def parse_listen_address(text: str) -> tuple[str, int]:
    """Host and port. Raises UsageError."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9.]+|\[[0-9a-f:]+\]", host) or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError("--listen takes an IP address and a port, such as 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _print_policy(session: Session) -> None:
    """Print the policy of API Management for the app's present routing."""
    response = session.server.get_routing(wait_seconds=0, etag=None, router=None)
    assert response.document is not None
    body, _ = response.document
    sys.stdout.write(render_policy(parse_routing_document(body), server_url=session.server.url))
