"""The command `doctor`, which checks whether a deployment can rely on the set-up."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from safe_deploy import rendering
from safe_deploy.azure_cli import AzureCli
from safe_deploy.azure_event_grid import EventGrid
from safe_deploy.azure_function_apps import FunctionApps
from safe_deploy.azure_state_server import AzureStateServer
from safe_deploy.ci import report_warning
from safe_deploy.diagnostics.checks import RETRY_SECONDS, run_checks
from safe_deploy.diagnostics.host_json import read_host_json
from safe_deploy.diagnostics.keys import KeyPurpose
from safe_deploy.diagnostics.options import CheckOptions
from safe_deploy.diagnostics.repairs import repair_results
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.diagnostics.status_urls import parse_status_url
from safe_deploy.errors import CommandError, UsageError
from safe_deploy.option_groups import AzureOptions, CommonOptions, expand_option_groups
from safe_deploy.options import SlotOption, YesOption
from safe_deploy.prompts import Prompts
from safe_deploy.session import Session, open_session, resolve_deployment_slots

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
    project: Annotated[
        Path | None,
        typer.Option(
            "--project", show_default="the current folder", help="Folder of the durable app, with its host.json."
        ),
    ] = None,
    test_event: Annotated[
        bool,
        typer.Option("--test-event/--no-test-event", help="With --resource-group: publish an event, and wait for it."),
    ] = True,
    fix: Annotated[
        bool, typer.Option("--fix", help="Repair what can be repaired safely, after a question for each.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Check server, key, app, slots or releases and routers, events and verification. Changes nothing without --fix."""
    parsed_url = parse_status_url(status_url) if status_url else None
    if yes and not fix:
        raise UsageError("--yes agrees to the repairs of --fix. Add --fix, or omit --yes")
    session = open_session(common, slot=slot, retry_seconds=RETRY_SECONDS)
    if parsed_url is not None and parsed_url.has_key:
        report_warning(
            session.ci,
            sys.stderr,
            "the URL of --status-url was given with its code, a key that process lists and shell histories show. Leave "
            "it out, and replace the key if other people use this machine",
        )
    az = AzureCli()
    options = CheckOptions(
        purpose=purpose,
        slot=slot,
        deployment_slots=resolve_deployment_slots(azure, session),
        function_apps=FunctionApps(azure.resource_group) if azure.resource_group else None,
        task_hub_setting=azure.task_hub_setting,
        status_url=parsed_url,
        now=rendering.current_time(),
        host_json=read_host_json(project),
        publishes_event=test_event,
        event_grid=EventGrid(az) if azure.resource_group else None,
        state_server=AzureStateServer(az, session.server.url) if azure.resource_group else None,
        report=session.report,
    )
    results: Iterable[CheckResult] = run_checks(session.server, options)
    if fix:
        prompts = Prompts(assume_yes=yes)
        results = repair_results(results, confirm=prompts.confirm, report=session.report)
    _print_results(session, list(results), fix=fix)


def _print_results(session: Session, results: Sequence[CheckResult], *, fix: bool) -> None:
    """Print all results. Raises CommandError with the checks that have failed."""
    session.print_result(
        [result.to_json() for result in results],
        rendering.CHECK_COLUMNS,
        [[result.status, result.check, result.text] for result in results],
    )
    repairable = sum(result.repair is not None for result in results)
    if repairable and not fix:
        subject = "1 check" if repairable == 1 else f"{repairable} checks"
        session.report(f"{subject} can be repaired after a question: safe-deploy doctor --fix, with the same options")
    failed = [result for result in results if result.status is CheckStatus.FAILED]
    if failed:
        error = CommandError("; ".join(f"{result.check}: {result.message}" for result in failed))
        error.exit_code = max(result.exit_code for result in failed)
        subject = "1 check" if len(failed) == 1 else f"{len(failed)} checks"
        raise session.summarize(error, f"{subject} failed: {', '.join(result.check for result in failed)}")
