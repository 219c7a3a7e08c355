"""The environment in which the commands of a page run: programs, a state server, a storage emulator, and existing apps.

The values in place of a reader's own names are all defined here."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durable_app.local.task_hub_storage import TaskHubStorageWriter
from harness.processes import free_ports, stop_after, wait_until
from state_api.emulator import EmulatorPorts, storage_emulator
from tests.backends.fake_schedulers import FakeScheduler, serve_grpc
from tests.documents.expected_output import find_mismatches
from tests.documents.fake_azure_resources import build_principal_id, build_resource_id, has_role
from tests.documents.fake_programs import ROOT
from tests.documents.installed_programs import install_programs
from tests.documents.local_server import serve_restarting
from tests.documents.markdown_page import CommandBlock, find_command_blocks, find_section_blocks
from tests.documents.shell_session import ShellSession, open_shell_session
from tests.keys import key_entry
from tests.pipelines.fake_cloud import FakeAzure

LOCAL_SERVER = "http://127.0.0.1:7071"
"""The address of the server of `make run` on the pages."""

STATE_APP = "shop-state-4711"
STATE_GROUP = "shop-state"
STATE_STORAGE_ACCOUNT = "shopstate4711"
DURABLE_APP = "shop-4711"
DURABLE_GROUP = "shop"
DURABLE_STORAGE_ACCOUNT = "shopdurable4711"
SCHEDULER = "shop-scheduler"

PIPELINE_KEY = "pipeline-key-0123456789"
OPERATOR_KEY = "operator-key-0123456789"

READER_ENVIRONMENT = {
    "USER": "operator",
    "ORGANIZATION": "contoso",
    "PROJECT": "shop",
    "AZURE_DEVOPS_PAT": "token",
    "CONNECTION_ID": "connection-1",
    "ENVIRONMENT_ID": "7",
}
"""Environment variables that a reader has set before the first command of any page."""

NAMES_FROM_SET_UP = {
    "HOST": f"{STATE_APP}.azurewebsites.net",
    "RG": STATE_GROUP,
    "STATE_APP": STATE_APP,
    "DURABLE_RG": DURABLE_GROUP,
    "DURABLE_APP": DURABLE_APP,
    "DURABLE_STORAGE": DURABLE_STORAGE_ACCOUNT,
    "LOCATION": "westeurope",
    "PIPELINE_KEY": PIPELINE_KEY,
    "OPERATOR_KEY": OPERATOR_KEY,
}
"""Environment variables that the commands of docs/azure.md set, for the pages after it."""

SET_UP_COMMANDS = """
export SAFE_DEPLOY_SERVER="https://$HOST" SAFE_DEPLOY_APP="$DURABLE_APP"
export SAFE_DEPLOY_KEY="$OPERATOR_KEY"
curl -sS "https://$HOST/api/health" # starts the apps, and with them their task hubs
PROVIDER="--provider azureStorage --connection STATE_TASKHUBS_SHOP --require-verification --missing-task-hub-is-drained"
safe-deploy register --create --task-hub v41 --version 1.4.0 $PROVIDER
safe-deploy register --slot staging --task-hub v40 --version 1.3.0 $PROVIDER
unset SAFE_DEPLOY_SERVER SAFE_DEPLOY_APP SAFE_DEPLOY_KEY
"""
"""Registers both slots of the durable app, as the pages after docs/azure.md expect it."""

_READER_FILES = {
    "app.zip": "",
    "pipeline.json": json.dumps({"key": PIPELINE_KEY}),
}

_CLOSED_ACCOUNT = (
    "DefaultEndpointsProtocol=http;AccountName=closed;AccountKey=Y2xvc2Vk;TableEndpoint=http://127.0.0.1:9;"
)
_ACCOUNTS = "Microsoft.Storage/storageAccounts"


@dataclass
class AzureSubscription:
    """A subscription of the stand-in for Azure, whose services are replaced by local ones."""

    cloud: Path
    emulator: str
    scheduler: str
    start_app: Callable[[str], None] | None = None
    """Starts a durable app on a task hub; None creates only what an app creates when it starts."""
    _created_task_hubs: set[str] = field(default_factory=set)

    def reset(self, *, with_state_server: bool) -> None:
        """Reset the subscription to one durable app.

        With `with_state_server` it also has the server and the staging slot, as docs/azure.md sets them up."""
        slots = {"production": {"package": "published", "settings": {}}}
        FakeAzure(self.cloud).reset({DURABLE_APP: {"resourceGroup": DURABLE_GROUP, "slots": slots}})
        state = json.loads(self.cloud.read_text())
        identifiers = [
            build_resource_id(DURABLE_GROUP, _ACCOUNTS, DURABLE_STORAGE_ACCOUNT),
            build_resource_id(DURABLE_GROUP, "Microsoft.DurableTask/schedulers", SCHEDULER),
        ]
        state["resources"] = {identifier: {"id": identifier} for identifier in identifiers}
        if with_state_server:
            keys = [
                key_entry(PIPELINE_KEY, "deployer", "pipeline-shop", [DURABLE_APP]),
                key_entry(OPERATOR_KEY, "admin", "operators"),
            ]
            settings = {
                "STATE_STORAGE": self.emulator,
                "STATE_TASKHUBS_SHOP": self.emulator,
                "STATE_KEYS": json.dumps(keys),
            }
            values = {name: {"value": value, "slotSetting": False} for name, value in settings.items()}
            production = {"package": "published", "settings": values}
            state["apps"][STATE_APP] = {"resourceGroup": STATE_GROUP, "slots": {"production": production}}
            slots["production"]["settings"] = {"TASK_HUB": {"value": "v41", "slotSetting": False}}
            staging = {"package": "published", "settings": {"TASK_HUB": {"value": "v40", "slotSetting": False}}}
            durable = {"production": slots["production"], "staging": staging}
            state["apps"][DURABLE_APP] = {"resourceGroup": DURABLE_GROUP, "slots": durable}
        self.cloud.write_text(json.dumps(state))

    def build_server_settings(self) -> dict[str, str] | None:
        """Build the environment that Azure gives to the state server. None before the code is published.

        References to the key vault are resolved if the identity has the role. Each service in Azure is replaced by the
        local one if the identity has its role, and otherwise by a closed port.
        """
        state = json.loads(self.cloud.read_text())
        self._start_durable_apps(state)
        app = state["apps"].get(_find_state_app(state))
        if app is None or not app["slots"]["production"].get("package"):
            return None
        settings = {name: item["value"] for name, item in app["slots"]["production"]["settings"].items()}
        return {
            name: value
            for setting, text in settings.items()
            for name, value in self._local_settings(state, setting, text).items()
        }

    def _local_settings(self, state: Mapping[str, Any], setting: str, value: str) -> dict[str, str]:
        """The settings that replace one setting of the Function App, which leads to a service in Azure."""
        name, _, part = setting.partition("__")
        if value.startswith("@Microsoft.KeyVault("):
            uri = value.removeprefix("@Microsoft.KeyVault(SecretUri=").removesuffix(")")
            secret = state.get("secrets", {}).get(uri)
            if secret is None:
                return {setting: value}
            allowed = self._has_role(state, "Key Vault Secrets User", secret["vault"])
            return {setting: secret["value"] if allowed else value}
        if part in {"queueServiceUri", "blobServiceUri", "clientId", "credential"}:
            return {}  # The connection string in place of the address of the tables has all of them.
        account_name = value.removeprefix("https://").partition(".")[0]
        if part == "tableServiceUri" and not name.startswith("STATE_TASKHUBS_"):
            group = state.get("azd", {}).get("AZURE_RESOURCE_GROUP", STATE_GROUP)
            account = build_resource_id(group, _ACCOUNTS, account_name)
            allowed = self._has_role(state, "Storage Table Data Contributor", account)
            return {name: self.emulator if allowed else _CLOSED_ACCOUNT}
        if part in {"accountName", "tableServiceUri"}:
            account = build_resource_id(DURABLE_GROUP, _ACCOUNTS, account_name)
            roles = [f"Storage {service} Data Reader" for service in ("Table", "Queue", "Blob")]
            allowed = all(self._has_role(state, role, account) for role in roles)
            return {name: self.emulator if allowed else _CLOSED_ACCOUNT}
        if value == f"Endpoint=https://{SCHEDULER}.westeurope.durabletask.io;Authentication=ManagedIdentity":
            account = build_resource_id(DURABLE_GROUP, "Microsoft.DurableTask/schedulers", SCHEDULER)
            if self._has_role(state, "Durable Task Data Reader", account):
                return {name: self.scheduler}
        return {setting: value}

    @staticmethod
    def _has_role(state: Mapping[str, Any], role: str, scope: str) -> bool:
        """Whether the state server's identity has the role."""
        return has_role(dict(state), build_principal_id(_find_state_app(state)), role, scope)

    def _start_durable_apps(self, state: Mapping[str, Any]) -> None:
        """Create the task hub of each durable app that runs, as the app does when it starts."""
        for slot in (slot for app in state["apps"].values() for slot in app["slots"].values()):
            hub = slot.get("settings", {}).get("TASK_HUB", {}).get("value")
            if hub and slot.get("package") and slot.get("state", "Running") == "Running":
                self._create_task_hub(hub)

    def _create_task_hub(self, hub: str) -> None:
        """Create the task hub's tables and queues in the emulator, once, as an app does when it starts."""
        if self.start_app is not None:
            self.start_app(hub)
        elif hub not in self._created_task_hubs:
            writer = TaskHubStorageWriter(self.emulator, hub)
            writer.create()
            writer.close()
            self._created_task_hubs.add(hub)


def _find_state_app(state: Mapping[str, Any]) -> str:
    """The name of the state server's Function App, which `azd` may have chosen."""
    return str(state.get("azd", {}).get("STATE_APP", STATE_APP))


@dataclass
class DocumentedEnvironment:
    """Runs the commands of a page, and compares what they print with what the page says."""

    shell: ShellSession
    server_url: str

    def run_preparation(self, commands: str) -> None:
        """Run commands that a page assumes to have been run. Raises AssertionError if one fails."""
        result = self.shell.run(commands)
        assert result.exit_code == 0, f"{result.stdout}\n{result.stderr}"

    def run_page(self, page: Path) -> None:
        """Run every `sh` block in order. Raises AssertionError at the first that does something else than the page
        says."""
        self._run_blocks(page, find_command_blocks(page))

    def run_section(self, page: Path, title: str) -> None:
        """Run the `sh` blocks under one heading, as `run_page` does."""
        self._run_blocks(page, find_section_blocks(page, title))

    def _run_blocks(self, page: Path, blocks: Iterable[CommandBlock]) -> None:
        """Run the commands of a page in order, and compare exit codes and output with what the page says."""
        count = 0
        for block in blocks:
            where = f"{page.relative_to(ROOT)}:{block.line}"
            commands = block.commands.replace(LOCAL_SERVER, self.server_url)
            result = self.shell.run(commands, may_fail=block.exit_code != 0)
            printed = f"{result.stdout}\n{result.stderr}"
            assert result.exit_code == block.exit_code, f"{where} ended with {result.exit_code}:\n{printed}"
            wrong = find_mismatches(block.outputs, result.stdout, result.stderr)
            assert not wrong, f"{where} prints something else: {wrong}\n{printed}"
            count += 1
        assert count, f"{page.relative_to(ROOT)} has no commands to run"


def _link_repository(folder: Path) -> None:
    """Create a directory with links to the files of the repository, and with files of the reader."""
    folder.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in (".git", "dist", "node_modules"):
            (folder / entry.name).symlink_to(entry)
    for name, text in _READER_FILES.items():
        (folder / name).write_text(text)


@contextmanager
def _run_fork_server(folder: Path) -> Iterator[Path]:
    """Run the process that every call of `safe-deploy` is forked from; yields the path of its socket."""
    address = folder / "safe-deploy.socket"
    process = subprocess.Popen([sys.executable, "-m", "tests.pipelines.fork_server", address], cwd=ROOT)
    with stop_after(process):
        wait_until(lambda: address.exists() or process.poll() is not None, "safe-deploy is imported")
        yield address


@contextmanager
def open_local_environment(folder: Path) -> Iterator[DocumentedEnvironment]:
    """Open the environment of pages for this machine. After `make run`, a server without keys runs."""
    cloud = folder / "cloud.json"
    FakeAzure(cloud).reset({})
    with ExitStack() as stack:
        ports = EmulatorPorts(*free_ports(3))
        stack.enter_context(storage_emulator(ports, None))
        settings = {"STATE_STORAGE": ports.connection_string()}
        started = folder / "make-run"
        url = stack.enter_context(serve_restarting(lambda: settings if started.exists() else None, keys_required=False))
        shell = stack.enter_context(_open_shell(folder, cloud, url, settings))
        yield DocumentedEnvironment(shell, url)


@contextmanager
def open_azure_environment(
    folder: Path, *, with_state_server: bool = False, with_slots: bool = True
) -> Iterator[DocumentedEnvironment]:
    """Open the environment of pages for Azure: a subscription with a durable app.

    With `with_state_server` it has everything that docs/azure.md sets up. Without `with_slots` the server does not know
    the durable app."""
    with ExitStack() as stack:
        ports = EmulatorPorts(*free_ports(3))
        stack.enter_context(storage_emulator(ports, None))
        scheduler = f"Endpoint=http://127.0.0.1:{stack.enter_context(serve_grpc(FakeScheduler()))};Authentication=None"
        subscription = AzureSubscription(folder / "cloud.json", ports.connection_string(), scheduler)
        subscription.reset(with_state_server=with_state_server)
        url = stack.enter_context(serve_restarting(subscription.build_server_settings, keys_required=True))
        variables = {**NAMES_FROM_SET_UP, "EMULATOR": subscription.emulator} if with_state_server else {}
        environment = DocumentedEnvironment(
            stack.enter_context(_open_shell(folder, subscription.cloud, url, variables)), url
        )
        if with_state_server and with_slots:
            environment.run_preparation(SET_UP_COMMANDS)
        yield environment


@contextmanager
def _open_shell(folder: Path, cloud: Path, url: str, variables: Mapping[str, str]) -> Iterator[ShellSession]:
    """Open a shell that finds the programs of the pages, and whose working directory looks like the repository."""
    repository, programs, scratch = folder / "repository", folder / "programs", folder / "blocks"
    _link_repository(repository)
    scratch.mkdir()
    with _run_fork_server(folder) as address:
        install_programs(programs, cloud=cloud, fork_server_address=address)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        azure = {"STATE_HOST": f"{STATE_APP}.azurewebsites.net", "STATE_SERVER_URL": url}
        environment = {**READER_ENVIRONMENT, **azure, "PATH": path, **variables}
        with open_shell_session(
            working_directory=repository, scratch_directory=scratch, environment=environment
        ) as shell:
            yield shell
    shutil.rmtree(scratch, ignore_errors=True)
