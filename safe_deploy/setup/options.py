"""The options of `safe-deploy init`: an answer for each question, so that a script can give them all."""

from dataclasses import dataclass, fields
from typing import Annotated

import typer

from safe_deploy.options import (
    FunctionAppOption,
    OutputFormat,
    OutputOption,
    QuietOption,
    ResourceGroupOption,
    YesOption,
    environment_variable,
)
from safe_deploy.setup.pipeline_settings import DeploymentModel
from safe_deploy.setup.remotes import CiSystemName


def _answer_option(name: str, text: str, default: str = "asked") -> typer.models.OptionInfo:
    """An option without a variable. `default` says in the help where the answer comes from without the option."""
    option: typer.models.OptionInfo = typer.Option(name, show_default=default, help=text)
    return option


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """The answers. Their names are those of the settings of a pipeline."""

    server: Annotated[
        str | None, typer.Option("--server", envvar=environment_variable("SERVER"), help="URL of the state server.")
    ] = None
    app: Annotated[
        str | None, typer.Option("--app", envvar=environment_variable("APP"), help="Name of the app on the server.")
    ] = None
    resource_group: ResourceGroupOption = ""
    function_app: FunctionAppOption = ""
    ci: Annotated[CiSystemName | None, _answer_option("--ci", "CI system.", "by the git remote")] = None
    model: Annotated[
        DeploymentModel | None, _answer_option("--model", "How versions are deployed.", "by the plan of the app")
    ] = None
    remote: Annotated[str, _answer_option("--remote", "Git remote of the pipeline.", "origin")] = ""
    folder: Annotated[
        str, _answer_option("--folder", "Folder of the app, from the root of the repository.", "that of host.json")
    ] = ""
    branch: Annotated[str, _answer_option("--branch", "Branch that is released.", "that of the remote")] = ""
    action: Annotated[
        str, _answer_option("--action", "GitHub repository of safe-deploy: OWNER/NAME, or OWNER/NAME@COMMIT.")
    ] = ""
    environment: Annotated[str, _answer_option("--environment", "Environment of the workflow.", "production")] = ""
    task_hub_setting: Annotated[
        str, _answer_option("--task-hub-setting", "App setting from which host.json takes the task hub.", "TASK_HUB")
    ] = ""
    client_id: Annotated[
        str, _answer_option("--client-id", "Client id of the identity that the workflow logs in with.", "none")
    ] = ""
    location: Annotated[str, _answer_option("--location", "Side by side: region of the releases.")] = ""
    storage_account: Annotated[
        str, _answer_option("--storage-account", "Side by side: storage account of the releases.")
    ] = ""
    router_address: Annotated[
        str, _answer_option("--router-address", "Side by side: addresses from which the router calls releases.")
    ] = ""

    def list_given(self) -> dict[str, str]:
        """The answers that are given, by their names."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value).strip() for name, value in values.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How the command runs."""

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", envvar=environment_variable("DRY_RUN"), help="Show what would change, and change nothing."
        ),
    ] = False
    yes: YesOption = False
    output: OutputOption = OutputFormat.TABLE
    quiet: QuietOption = False
