"""The command `doctor`, which checks whether a deployment can rely on the set-up."""

from typing import Annotated

import typer

from safe_deploy import diagnostics, rendering
from safe_deploy.diagnostics import CheckStatus, KeyPurpose, run_checks
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
) -> None:
    """Check server, key, app, slots, events and verification. Changes nothing."""
    session = open_session(common, slot=slot, retry_seconds=diagnostics.RETRY_SECONDS)
    results = run_checks(
        session.server,
        slot=slot,
        deployment_slots=resolve_deployment_slots(azure, session),
        purpose=purpose,
        now=rendering.current_time(),
    )
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
