"""The commands `quiesce` and `unquiesce`, which disable and enable functions of a release that start work by
themselves."""

from typing import Annotated

import typer

from safe_deploy.azure_function_apps import FunctionApps
from safe_deploy.errors import ConflictError, UsageError
from safe_deploy.option_groups import CommonOptions, expand_option_groups
from safe_deploy.options import ReleaseVersionOption, ResourceGroupOption
from safe_deploy.quiescing import ReleaseFunctions
from safe_deploy.session import Session, open_session
from safe_deploy.side_by_side.app_state import Release, ReleaseState, SideBySideApp
from safe_deploy.side_by_side.promotion import read_app

quiesce_commands = typer.Typer()

FunctionsOption = Annotated[
    str,
    typer.Option(
        "--functions",
        show_default="the policy's quiesceFunctions",
        help="Names of the functions, separated by commas.",
    ),
]


@quiesce_commands.command()
@expand_option_groups
def quiesce(
    common: CommonOptions,
    *,
    version: ReleaseVersionOption,
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
    version: ReleaseVersionOption,
    functions: FunctionsOption = "",
    resource_group: ResourceGroupOption = "",
) -> None:
    """Enable functions of a release that start work by themselves. Its Function App restarts."""
    _change(common, version=version, functions=functions, resource_group=resource_group, disabled=False)


def _change(common: CommonOptions, *, version: str, functions: str, resource_group: str, disabled: bool) -> None:
    """Disable or enable functions of a release in Azure, those of the app's policy unless `functions` names others, and
    print the result."""
    if not resource_group:
        raise UsageError("--resource-group is required: the resource group of the release's Function App")
    function_apps = FunctionApps(resource_group)
    session = open_session(common)
    app = read_app(session.server)
    release = app.get_release(version)
    names = [name.strip() for name in functions.split(",") if name.strip()] or list(app.quiesce_functions)
    if not names:
        raise UsageError(f"the policy of app {app.name} has no quiesceFunctions. Name the functions in --functions")
    release_functions = ReleaseFunctions(function_apps, names, report=session.report)
    _check_state(session, app, release, disabled=disabled)
    result = release_functions.set_disabled(release, disabled=disabled)
    state = "disabled" if disabled else "enabled"
    session.print_result(
        {
            "app": app.name,
            "version": version,
            "functionApp": result.function_app,
            "functions": names,
            "disabled": disabled,
            "changed": list(result.changed),
        },
        (),
        [],
        f"{', '.join(names)} of release {version} of app {app.name}: {state} in Function App {result.function_app}",
    )


def _check_state(session: Session, app: SideBySideApp, release: Release, *, disabled: bool) -> None:
    """Warn if the active release would not run the functions, or another one would. Raises ConflictError for a release
    that is being removed and would run them."""
    active = app.routing.active
    if release.version == active:
        if disabled:
            session.warn(f"release {active} is active: no release runs these functions until safe-deploy unquiesce")
        return
    if disabled:
        return
    if release.state == ReleaseState.REMOVING:
        raise ConflictError(f"release {release.version} is being removed, so its functions must stay disabled")
    competition = f" and compete with those of release {active}" if active else ""
    session.warn(
        f"release {release.version} is not active: its functions start work there all the same{competition}, and it "
        "does not drain meanwhile"
    )
