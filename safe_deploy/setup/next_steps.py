"""What a person does after `safe-deploy init`, in order, each with the command. Decided from what is known already."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safe_deploy.client import Json
from safe_deploy.policy import flatten_policy
from safe_deploy.setup.host_json import TOPIC_ENDPOINT_SETTING, TOPIC_KEY_SETTING
from safe_deploy.setup.pipeline_settings import DeploymentModel, PipelineSettings
from safe_deploy.setup.remotes import CiSystemName
from safe_deploy.setup.server_place import ServerPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupOutcome:
    """What is known after the set-up."""

    settings: PipelineSettings
    policy: Mapping[str, Any]
    entry: Json | None
    task_hub: str | None
    """The task hub of production, if its app setting could be read."""
    named_task_hub: str | None
    """The task hub that host.json has named itself so far."""
    provider: str
    """The provider of the app's task hubs, by host.json."""
    has_client_id: bool
    uncommitted_files: tuple[str, ...]
    """The files of the set-up that are not in the last commit."""
    kept_files: tuple[str, ...]
    """The files that a person did not let init change."""
    server_place: ServerPlace


@dataclass(frozen=True, slots=True)
class NextStep:
    """What to do, and the command that does it."""

    text: str
    command: str = ""

    def to_json(self) -> dict[str, str]:
        """The step in the result of the command."""
        return {"text": self.text, "command": self.command}


def list_next_steps(outcome: SetupOutcome) -> list[NextStep]:
    """The steps, in the order in which they are taken."""
    settings = outcome.settings
    common = f"--server {shlex.quote(settings.server)} --app {settings.app}"
    doctor = f"safe-deploy doctor --fix {common} --resource-group {shlex.quote(settings.resource_group)}"
    return [
        *_list_server_steps(outcome),
        *_list_pipeline_steps(outcome),
        *_list_app_steps(outcome),
        *_list_registration_steps(outcome, common),
        NextStep("Check the set-up, and repair what can be repaired. After that, push: the pipeline deploys.", doctor),
    ]


def _list_server_steps(outcome: SetupOutcome) -> Iterator[NextStep]:
    """The entry of the new key on the server, which knows keys by their SHA-256 alone."""
    if outcome.entry is None:
        return
    place = outcome.server_place
    secret = f"--vault-name {place.vault} --name {place.secret}"
    site = f"--resource-group {place.resource_group} --name {place.function_app}"
    entry = shlex.quote(json.dumps(outcome.entry))
    reference = '"STATE_KEYS=@Microsoft.KeyVault(SecretUri=$SECRET)"'
    # With -e, jq fails without input, so that a failure of az does not lead to a server without keys.
    add = f"jq -ce --argjson entry {entry} '. + [$entry]' > \"$KEYS\""
    read = f"az keyvault secret show {secret} --query value --output tsv"
    write = f'SECRET=$(az keyvault secret set {secret} --file "$KEYS" --query id --output tsv)'
    refer = f"az functionapp config appsettings set {site} --output none --settings {reference}"
    yield NextStep(
        "Add the entry of the key to the server's STATE_KEYS. The server restarts with it.",
        f"KEYS=$(mktemp) && {read} | {add} && {write} && {refer}",
    )


def _list_pipeline_steps(outcome: SetupOutcome) -> Iterator[NextStep]:
    """What the CI system lacks."""
    settings = outcome.settings
    if settings.ci is CiSystemName.GITHUB and not outcome.has_client_id:
        variable = "CLIENT" if settings.model is DeploymentModel.SLOTS else "AZURE_CLIENT_ID"
        yield NextStep(
            "Give the pipeline an identity in Azure, as docs/github-actions.md says under Log in without a password. "
            "The workflow reads its client id from a variable.",
            f"gh variable set {variable} --body CLIENT_ID",
        )
    if settings.ci is CiSystemName.AZURE_PIPELINES:
        yield NextStep(
            "In Azure DevOps, prepare the project as docs/azure-pipelines.md says under Prepare the project. Create "
            "a pipeline of the written file."
        )
    for path in outcome.kept_files:
        yield NextStep(
            f"{path} is as it was, and the set-up needs its change. Run init in a terminal again, which shows it.",
            "safe-deploy init",
        )
    if outcome.uncommitted_files:
        # Not --all: other files of the work tree, such as local.settings.json, may hold secrets.
        yield NextStep(
            "Look at the lines of the written files that are marked yours, and commit them.",
            f"git add -- {shlex.join(f':/{path}' for path in outcome.uncommitted_files)} && git commit",
        )


def _list_app_steps(outcome: SetupOutcome) -> Iterator[NextStep]:
    """The app settings that host.json reads."""
    settings = outcome.settings
    if settings.model is DeploymentModel.SIDE_BY_SIDE:
        return
    site = f"--resource-group {shlex.quote(settings.resource_group)} --name {settings.function_app}"
    if outcome.task_hub is None:
        name = shlex.quote(outcome.named_task_hub or "NAME")
        yield NextStep(
            f"Set {settings.task_hub_setting} in production to the name of the task hub that production uses today. It "
            "must not be a slot setting.",
            f"az functionapp config appsettings set {site} --settings {settings.task_hub_setting}={name} --output none",
        )
    topic = f'"{TOPIC_ENDPOINT_SETTING}=$TOPIC_ENDPOINT" "{TOPIC_KEY_SETTING}=$TOPIC_KEY"'
    yield NextStep(
        "Give the app the topic for lifecycle events, as docs/azure.md says under Lifecycle events. Then deploy "
        "host.json once, as you have deployed so far.",
        f"az functionapp config appsettings set {site} --settings {topic} --output none",
    )


def _list_registration_steps(outcome: SetupOutcome, common: str) -> Iterator[NextStep]:
    """What an administrator records on the server about the app."""
    settings = outcome.settings
    if settings.model is DeploymentModel.SLOTS:
        task_hub = shlex.quote(outcome.task_hub or outcome.named_task_hub or "NAME")
        yield NextStep(
            "Register production, with the key of an administrator in SAFE_DEPLOY_KEY. The connection is the name "
            "of the server's setting for the task hubs.",
            f"safe-deploy register {common} --create --task-hub {task_hub} --provider "
            f"{outcome.provider} --connection STATE_TASKHUBS_NAME",
        )
    else:
        yield NextStep("Set up the app and its router, as docs/side-by-side.md says under Set up the app and Routers.")
    values = shlex.join(f"{name}={_format_value(value)}" for name, value in flatten_policy(outcome.policy).items())
    if values:
        yield NextStep("Apply the policy file, with the same key.", f"safe-deploy policy set {common} {values}")


def _format_value(value: object) -> str:
    """A member of the policy as `safe-deploy policy set` reads it: a text without quotation marks, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
