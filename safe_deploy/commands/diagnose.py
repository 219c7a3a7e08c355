"""The command `doctor`, which checks whether a deployment can rely on the set-up."""

import sys
from typing import Annotated

import typer

from safe_deploy import rendering
from safe_deploy.azure_function_apps import FunctionApps
from safe_deploy.ci import report_warning
from safe_deploy.diagnostics.checks import RETRY_SECONDS, CheckOptions, run_checks
from safe_deploy.diagnostics.keys import KeyPurpose
from safe_deploy.diagnostics.results import CheckStatus
from safe_deploy.diagnostics.status_urls import parse_status_url
from safe_deploy.errors import CommandError
from safe_deploy.option_groups import AzureOptions, CommonOptions, expand_option_groups
from safe_deploy.options import SlotOption
from safe_deploy.session import open_session, resolve_deployment_slots

diagnose_commands = typer.Typer()


@diagnose_commands.command()
@expand_option_groups
def doctor(
    common: CommonOptions,
    azure: AzureOptions,
    *,
    purpose: Annotated[KeyPurpose, typer.Option("--for", help="What the key must permit.")] = KeyPurpose.DEPLOY,
    slot: SlotOption = "staging",
    status_url: Annotated[
        str,
        typer.Option(
            "--status-url",
            show_default=False,
            help="For releases side by side: a statusQueryGetUri that the app has returned, without its code.",
        ),
    ] = "",
) -> None:
    """Check server, key, app, slots or releases and routers, events and verification. Changes nothing."""
    parsed_url = parse_status_url(status_url) if status_url else None
    session = open_session(common, slot=slot, retry_seconds=RETRY_SECONDS)
    if parsed_url is not None and parsed_url.has_key:
        report_warning(
            session.ci,
            sys.stderr,
            "the URL of --status-url was given with its code, a key that process lists and shell histories show. Leave "
            "it out, and replace the key if other people use this machine",
        )
    options = CheckOptions(
        purpose=purpose,
        slot=slot,
        deployment_slots=resolve_deployment_slots(azure, session),
        function_apps=FunctionApps(azure.resource_group) if azure.resource_group else None,
        task_hub_setting=azure.task_hub_setting,
        status_url=parsed_url,
    )
    results = run_checks(session.server, options, rendering.current_time())
    session.print_result(
        [result.to_json() for result in results],
        rendering.CHECK_COLUMNS,
        [[result.status, result.check, result.message] for result in results],
    )
    failed = [result for result in results if result.status is CheckStatus.FAILED]
    if failed:
        error = CommandError("; ".join(f"{result.check}: {result.message}" for result in failed))
        error.exit_code = max(result.exit_code for result in failed)
        raise error
