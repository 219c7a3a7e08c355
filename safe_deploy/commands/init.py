"""The command `init`, which sets up an app's repository for guarded deployments."""

import sys
from pathlib import Path

import typer

from safe_deploy.errors import ConflictError
from safe_deploy.option_groups import CommonOptions, expand_option_groups
from safe_deploy.options import OutputFormat
from safe_deploy.prompts import Prompts
from safe_deploy.sanitization import sanitize_line
from safe_deploy.session import Session, open_session
from safe_deploy.setup.file_changes import StepStatus
from safe_deploy.setup.initialization import Initialization, InitResult
from safe_deploy.setup.options import AnswerOptions, RunOptions

init_commands = typer.Typer()

_COLUMNS = ("Step", "Status", "Detail")

_DRY_RUN_WORDS = {
    StepStatus.CREATED: "would create",
    StepStatus.CHANGED: "would change",
    StepStatus.UNCHANGED: "is unchanged:",
    StepStatus.KEPT: "would keep",
    StepStatus.TO_DO: "is to be done:",
}


@init_commands.command()
@expand_option_groups
def init(answers: AnswerOptions, run: RunOptions) -> None:
    """Set up a repository: its pipeline, host.json, a policy file and a key. Asks for what it cannot detect."""

    def report(line: str) -> None:
        """Print progress, before there is a session."""
        if not run.quiet:
            sys.stderr.write(f"{sanitize_line(line)}\n")
            sys.stderr.flush()

    prompts = Prompts(assume_yes=run.yes)
    result = Initialization(answers, prompts, report, dry_run=run.dry_run).run(Path.cwd())
    settings = result.settings
    session = open_session(CommonOptions(server=settings.server, app=settings.app, output=run.output, quiet=run.quiet))
    _print_result(session, result)
    if run.yes and not run.dry_run and result.kept:
        raise ConflictError(
            f"{', '.join(result.kept)}: kept as it is, because --yes replaces nothing that a person may have edited. "
            "Run safe-deploy init in a terminal to see the difference"
        )


def _print_result(session: Session, result: InitResult) -> None:
    """Print the steps, and what to do next. A dry run prints its diffs, which `git apply` reads, and nothing else to
    stdout."""
    if result.is_dry_run and session.output is OutputFormat.TABLE:
        for step in result.steps:
            session.report(f"{_DRY_RUN_WORDS[step.status]} {step.step}: {step.detail}")
            for line in step.diff.splitlines():
                session.out.file.write(f"{sanitize_line(line)}\n")
        session.report("This was a dry run: nothing was changed")
        return
    title = f"set-up of app {result.settings.app}{'' if result.has_changed else ': nothing has changed'}"
    rows = [[step.step, step.status, step.detail] for step in result.steps]
    session.print_result(result.to_json(), _COLUMNS, rows, title)
    session.report("Next:")
    for number, next_step in enumerate(result.next_steps, 1):
        session.report(f"{number}. {next_step.text}")
        if next_step.command:
            session.report(f"   {next_step.command}")
