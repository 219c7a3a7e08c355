"""The commands `quiesce` and `unquiesce`, which disable and enable functions of a release that start work by
themselves."""

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from safe_deploy.azure_function_apps import FunctionApps
from safe_deploy.ci import report_warning
from safe_deploy.client import Json
from safe_deploy.errors import CommandError, ConflictError, UsageError
from safe_deploy.option_groups import CommonOptions, expand_option_groups
from safe_deploy.options import ResourceGroupOption, VersionOption
from safe_deploy.quiescing import ReleaseFunctions
from safe_deploy.session import Session, open_session

quiesce_commands = typer.Typer()

FunctionsOption = Annotated[
    str,
    typer.Option(
        "--functions",
        show_default="the policy's quiesceFunctions",
        help="Names of the functions, separated by commas.",
    ),
]


@dataclass(frozen=True, slots=True)
class _Release:
    version: str
    address: str


@quiesce_commands.command()
@expand_option_groups
def quiesce(
    common: CommonOptions,
    *,
    version: VersionOption = "",
    functions: FunctionsOption = "",
    resource_group: ResourceGroupOption = "",
) -> None:
    """Disable functions of a release that start work by themselves. Its Function App restarts."""
    _change(common, version=version, functions=functions, resource_group=resource_group, disabled=True)


@quiesce_commands.command()
@expand_option_groups
def unquiesce(
    common: CommonOptions,
    *,
    version: VersionOption = "",
    functions: FunctionsOption = "",
    resource_group: ResourceGroupOption = "",
) -> None:
    """Enable functions of a release that start work by themselves. Its Function App restarts."""
    _change(common, version=version, functions=functions, resource_group=resource_group, disabled=False)


def _change(common: CommonOptions, *, version: str, functions: str, resource_group: str, disabled: bool) -> None:
    if not version or not resource_group:
        raise UsageError("--version and --resource-group are required: name the release, and where its Function App is")
    function_apps = FunctionApps(resource_group)
    session = open_session(common)
    app, _ = session.server.get_app()
    release = _find_release(app, version)
    names = [name.strip() for name in functions.split(",") if name.strip()] or app["policy"]["quiesceFunctions"]
    if not names:
        raise UsageError(f"the policy of app {app['app']} has no quiesceFunctions. Name the functions in --functions")
    release_functions = ReleaseFunctions(function_apps, names, report=session.report)
    _check_state(session, app, version, disabled=disabled)
    result = release_functions.set_disabled(release, disabled=disabled)
    state = "disabled" if disabled else "enabled"
    session.print_result(
        {
            "app": app["app"],
            "version": version,
            "functionApp": result.function_app,
            "functions": names,
            "disabled": disabled,
            "changed": list(result.changed),
        },
        (),
        [],
        f"{', '.join(names)} of release {version} of app {app['app']}: {state} in Function App {result.function_app}",
    )


def _find_release(app: Json, version: str) -> _Release:
    """Raises ConflictError for an app with slots, and CommandError for a release that does not exist."""
    if app["model"] != "sideBySide":
        raise ConflictError(f"app {app['app']} has slots, and this command is for releases side by side")
    if version not in app["releases"]:
        known = ", ".join(app["releases"]) or "none"
        raise CommandError(f"app {app['app']} has no release {version}. Its releases: {known}")
    return _Release(version, app["releases"][version]["address"])


def _check_state(session: Session, app: Json, version: str, *, disabled: bool) -> None:
    """Warn if the active release would not run the functions, or another one would. Raises ConflictError for a release
    that is being removed and would run them."""
    active = app["routing"]["active"]
    if disabled and version == active:
        _warn(session, f"release {version} is active: no release runs these functions until safe-deploy unquiesce")
    if disabled or version == active:
        return
    if app["releases"][version]["state"] == "Removing":
        raise ConflictError(f"release {version} is being removed, so its functions must stay disabled")
    competition = f" and compete with those of release {active}" if active else ""
    _warn(
        session,
        f"release {version} is not active: its functions start work there all the same{competition}, and it does not "
        "drain meanwhile",
    )


def _warn(session: Session, message: str) -> None:
    report_warning(session.ci, sys.stderr, message)
