"""The commands of the group `policy`: what an app's policy says, and how to change it."""

from typing import Annotated

import typer

from safe_deploy.errors import UsageError
from safe_deploy.option_groups import CommonOptions, expand_option_groups
from safe_deploy.policy import POLICY_COLUMNS, build_policy_request, build_policy_rows
from safe_deploy.registration import CHANGE_COLUMNS, plan_policy_changes, write_app
from safe_deploy.session import open_session

policy_commands = typer.Typer(
    name="policy",
    help="The policy of an app: what its verdicts, cleanup and releases follow.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@policy_commands.command("get")
@expand_option_groups
def get_policy(common: CommonOptions) -> None:
    """Show the policy. A default is shown where the value is another one."""
    session = open_session(common)
    app, _ = session.server.get_app()
    session.print_result(app["policy"], POLICY_COLUMNS, build_policy_rows(app["policy"]), f"policy of app {app['app']}")


@policy_commands.command("set")
@expand_option_groups
def set_policy(
    common: CommonOptions,
    *,
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...", help="Members, such as settleSeconds=60. Between the items of a list is a comma."
        ),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="NAME", help="Member that gets its default again; repeat for several."),
    ] = None,
) -> None:
    """Change the policy, and show what was before. Members that are not named stay. Needs an admin's key."""
    if not (assignments or unset):
        raise UsageError("nothing is given to set. Give NAME=VALUE, or --unset NAME")
    session = open_session(common)
    app, etag = session.server.get_app()
    request = build_policy_request(app["policy"], assignments or (), unset or ())
    body = {"policy": request}
    # Whether a null is done cannot be seen, because the server knows the default.
    written = write_app(
        session.server,
        body,
        etag=etag,
        is_done=lambda current: not plan_policy_changes(current["policy"], request),
    )
    changes = plan_policy_changes(app["policy"], written["policy"])
    title = "changed" if changes else "nothing has changed: the policy has these values already"
    rows = [change.to_row() for change in changes]
    session.print_result(written["policy"], CHANGE_COLUMNS, rows, f"policy of app {written['app']}: {title}")
