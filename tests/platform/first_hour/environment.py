"""The machine of a person who follows the guide: a clean clone, an app's repository, and an empty home folder. In Azure
there is one durable app."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.functions_host import copy_deployed_app
from harness.platform_programs import FOLDER_VARIABLE, platform_folder
from harness.processes import free_ports
from harness.state_server import ROOT
from state_api.emulator import EmulatorPorts, storage_emulator
from tests.documents.documented_environment import DURABLE_APP, AzureSubscription, DocumentedEnvironment
from tests.documents.fake_azure_resources import TOPIC_PATH
from tests.documents.local_server import serve_application
from tests.documents.shell_session import open_shell_session
from tests.pipelines.fake_gh import FakeGitHub
from tests.platform.first_hour.durable_apps import DurableApps, run_durable_apps
from tests.platform.first_hour.programs import install_programs_of_the_hour
from tests.platform.first_hour.restarting_host import RestartingFunctionsHost

FIRST_TASK_HUB = "shop1"
"""The task hub of the version that is in production before the guide begins."""

_IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com"} | {
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}
_TELEMETRY = "APPLICATIONINSIGHTS_"


@dataclass(frozen=True, slots=True)
class FirstHour:
    """The environment of the guide's commands. `apps` are the workers of the durable app's versions."""

    commands: DocumentedEnvironment
    apps: DurableApps
    scratch: Path

    def count_reporting_blocks(self) -> int:
        """How many blocks of commands have printed something to stderr so far."""
        return sum(bool(file.read_text().strip()) for file in self.scratch.glob("*.err"))


@contextmanager
def open_first_hour(folder: Path) -> Iterator[FirstHour]:
    """Prepare everything that the guide takes for granted."""
    clone, scratch, programs = folder / "safe-deploy", folder / "blocks", folder / "programs"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    scratch.mkdir()
    (folder / "home").mkdir()
    _create_app_repository(clone / "durable_app", folder / "shop")
    with ExitStack() as stack:
        ports = EmulatorPorts(*free_ports(3))
        stack.enter_context(storage_emulator(ports, None))
        connection = ports.connection_string()
        apps = stack.enter_context(run_durable_apps(connection, folder))
        subscription = AzureSubscription(folder / "cloud.json", connection, "", apps.start)
        subscription.reset(with_state_server=False)
        _prepare_slots(subscription.cloud)
        package = copy_deployed_app(clone, folder / "package")

        def read_settings() -> dict[str, str] | None:
            """The server's settings without those of the telemetry, which nothing receives here."""
            settings = subscription.build_server_settings()
            return settings and {name: value for name, value in settings.items() if not name.startswith(_TELEMETRY)}

        server = RestartingFunctionsHost(package, folder / "host", connection, read_settings)
        url = stack.enter_context(serve_application(server))
        apps.topic = url + TOPIC_PATH
        github = folder / "github.json"
        FakeGitHub(github).reset("contoso/shop")
        install_programs_of_the_hour(programs, clone=clone, cloud=subscription.cloud, github=github, url=url)
        variables = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "STATE_SERVER_URL": url,
            FOLDER_VARIABLE: str(platform_folder()),
            **_IDENTITY,
        }
        shell = stack.enter_context(
            open_shell_session(working_directory=clone, scratch_directory=scratch, environment=variables)
        )
        yield FirstHour(DocumentedEnvironment(shell, url), apps, scratch)


def _create_app_repository(sample: Path, repository: Path) -> None:
    """A repository of the sample app, as a team has it before it knows of this project."""
    shutil.copytree(sample, repository, ignore=shutil.ignore_patterns("local", "__pycache__", "README.md"))
    host = json.loads((repository / "host.json").read_text())
    del host["extensions"]["durableTask"]["notifications"]
    (repository / "host.json").write_text(json.dumps(host, indent=2) + "\n")
    for command in (
        ["init", "--quiet", "--initial-branch", "main"],
        ["remote", "add", "origin", "https://github.com/contoso/shop.git"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "The app before"],
    ):
        subprocess.run(["git", *command], cwd=repository, check=True, env=os.environ | _IDENTITY)


def _prepare_slots(cloud: Path) -> None:
    """Production runs a version on its task hub. The slot staging is new and stopped."""
    state = json.loads(cloud.read_text())
    slots = state["apps"][DURABLE_APP]["slots"]
    slots["production"]["settings"] = {"TASK_HUB": {"value": FIRST_TASK_HUB, "slotSetting": False}}
    slots["staging"] = {"settings": {}, "state": "Stopped"}
    cloud.write_text(json.dumps(state))
