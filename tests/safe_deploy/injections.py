"""Hostile texts for the CLI, an app that has them on record, and the commands that they could forge in a log."""

from dataclasses import astuple

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.in_process import run_in_process
from tests.safe_deploy.logging_commands import (
    OWN_AZURE_COMMANDS,
    OWN_GITHUB_COMMANDS,
    LoggingCommand,
    find_azure_commands,
    find_github_commands,
)
from tests.safe_deploy.processes import CliResult, run_safe_deploy

INJECTIONS = {
    "lines": "order\n::error::forged\r\n  ::set-output name=ready::true\x85::error::x\u2028::error::y\u2029z\x0b\x0c",
    "github": "::stop-commands::token ::add-mask::a x::error file=a::b::c",
    "azure": "##vso[task.setvariable variable=ready;isOutput=true]true ##VSO[task.complete result=Failed;]a##[error]b",
    "hidden": "#\u034f#vso[task.complete result=Succeeded;] #\u00ad#[error] :\u200b:error::a \ufe0f::error::b",
    "percent": "a%0A::error::forged%0D%0A##vso[task.complete]%25%AZP25;]",
    "escapes": "\x1b[2J\x1b[1;1H\x1b]0;title\x07\x1b]8;;https://evil.example\x07a\x9b31m\x7f\x08\x00",
    "bidi": "\u202egnidaer\u202c\u2066a\u2069\u200f\u061c\ufeff",
    "markup": "[red]a[/nope] [link=https://evil.example]b[/link] :heart: [/]",
    "markdown": "a|b`c`<script>d</script>&#x202e; [e](https://evil.example) ![f](x) **g** @octocat www.evil.example",
    "long": "::error::" * 28,
}
"""Instance ids. An app can choose any text."""


VERSION_LENGTH = 90
"""A length that the server accepts for a version."""


VISIBLE_PARTS = ["forged", "task.complete result", "stop-commands", "\\x1b[2J", "\\u202e"]
"""Parts of the injections that a log still shows, because the CLI escapes hostile characters and drops none."""


class AppWithInjections:
    """An app with hostile instance ids in production, in the slot and in a retired task hub. Versions and reasons are
    hostile, too."""

    def __init__(self, app_client: AppClient) -> None:
        """Register the app, stage and swap one task hub, stage another, and start hostile instances in all of them."""
        self.app_client = app_client
        self.retired, self.production, self.staging = app_client.hub, new_hub_name(), new_hub_name()
        app_client.register(policy={"settleSeconds": 0})
        for hub in (self.production, self.staging):
            staging_request = {
                "taskHub": hub,
                "version": INJECTIONS["azure"][:VERSION_LENGTH],
                "force": True,
                "reason": INJECTIONS["lines"] + INJECTIONS["bidi"],
            }
            app_client.request_json("POST", "/staging", staging_request, run_number=1)
            if hub == self.production:
                app_client.swap(hub, run_number=1)
        for hub in (self.retired, self.production, self.staging):
            # A function name can be any text, too.
            app_client.publish(*(event(hub, name, function=name) for name in INJECTIONS.values()))

    @property
    def commands(self) -> dict[str, tuple[list[str], int]]:
        """The arguments of every command that prints what is on record, with its exit code."""
        production = ["--slot", "production"]
        stage = ["stage", "--task-hub", new_hub_name(), "--run-url", f"{RUN}1"]
        waive = [
            "waive",
            "--task-hub",
            self.production,
            "--instance-id",
            INJECTIONS["escapes"][1:-1],
            "--reason",
            INJECTIONS["azure"],
        ]
        return {
            "status": (["status", *production], ExitCode.NOT_READY),
            "wait": (["status", *production, "--wait", "--timeout", "0"], ExitCode.TIMED_OUT),
            "stage": (stage, ExitCode.NOT_READY),
            "instances": (["instances", *production], ExitCode.DONE),
            "history": (["history"], ExitCode.DONE),
            "doctor": (["doctor", "--for", "administer"], ExitCode.FAILURE),
            "cleanup": (["cleanup", "--dry-run"], ExitCode.DONE),
            "waive": (waive, ExitCode.DONE),
            "register": (
                ["register", "--task-hub", self.production, "--version", INJECTIONS["github"], "--yes"],
                ExitCode.DONE,
            ),
        }


def find_forged_commands(commands: list[LoggingCommand], own_names: set[str], prefix: str) -> list[LoggingCommand]:
    """Commands that the CLI does not write itself, or that are not at the start of a line."""
    return [command for command in commands if command.name not in own_names or not command.line.startswith(prefix)]


def find_forged_github_commands(log: str) -> list[LoggingCommand]:
    """GitHub workflow commands in a log that the CLI has not written itself."""
    return find_forged_commands(find_github_commands(log), OWN_GITHUB_COMMANDS, "::")


def find_forged_azure_commands(log: str) -> list[LoggingCommand]:
    """Azure Pipelines logging commands in a log that the CLI has not written itself."""
    return find_forged_commands(find_azure_commands(log), OWN_AZURE_COMMANDS, "##vso[")


def run_command(*arguments: str, variables: dict[str, str], in_new_process: bool = False) -> CliResult:
    """Run `safe-deploy` with these arguments: in this process, which is faster, or in a new one, as pipelines do."""
    return (
        run_safe_deploy(*arguments, variables=variables)
        if in_new_process
        else CliResult(*astuple(run_in_process(arguments, variables)))
    )
