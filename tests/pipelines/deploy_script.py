"""Runs `pipelines/shell/deploy.sh` as a CI system does."""

import re
import subprocess

from tests.pipelines.ci_machine import KEYS, PIPELINES_FOLDER, RESOURCE_GROUP, Machine, PipelineApp

DEPLOY_SCRIPT = PIPELINES_FOLDER / "shell" / "deploy.sh"


RUN = "https://ci.example/pipelines/7"


class DeployScript:
    """Runs the script as a job of a CI system. `exit_code` and `stderr` are those of the last run."""

    def __init__(self, machine: Machine, pipeline_app: PipelineApp) -> None:
        self.machine = machine
        self.pipeline_app = pipeline_app
        self.exit_code = 0
        self.stderr = ""
        self.ci_variables = {"CI_PIPELINE_URL": RUN, "GITLAB_USER_LOGIN": "ada"}

    def build_environment(self, **settings: str) -> dict[str, str]:
        """The environment of the script. `settings` sets SAFE_DEPLOY_ variables, such as `task_hub`."""
        environment = {
            **self.machine.environment(self.machine.folder, logged_in=True),
            "SAFE_DEPLOY_SERVER": self.pipeline_app.server,
            "SAFE_DEPLOY_APP": self.pipeline_app.name,
            "SAFE_DEPLOY_KEY": KEYS["deployer"],
            **self.ci_variables,
        }
        return environment | {f"SAFE_DEPLOY_{name.upper()}": value for name, value in settings.items()}

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Start the script with these arguments, and with `settings` as SAFE_DEPLOY_ variables."""
        return subprocess.Popen(
            [DEPLOY_SCRIPT, *arguments],
            env=self.build_environment(**settings),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *arguments: str, **settings: str) -> str:
        """Run the script to its end, and return its stdout. `exit_code` and `stderr` keep the rest of the result."""
        process = self.start(*arguments, **settings)
        stdout, self.stderr = process.communicate(timeout=60)
        self.exit_code = process.returncode
        assert not any(key in stdout + self.stderr for key in KEYS.values())
        return stdout

    def swap_arguments(self) -> list[str]:
        """The arguments of `swap` that make the script swap the slots with `az`."""
        name = self.pipeline_app.name
        az_command = [
            "az",
            "functionapp",
            "deployment",
            "slot",
            "swap",
            "--resource-group",
            RESOURCE_GROUP,
            "--name",
            name,
        ]
        return ["--", *az_command, "--slot", "staging", "--target-slot", "production"]

    def replace_curl(self, line: str) -> None:
        """Put a program `curl` before the real one on the PATH. It runs this line of shell, which ends with `exec`."""
        program = self.machine.tools / "curl"
        program.write_text(f"#!/bin/bash\n{line}\n")
        program.chmod(0o755)

    def run_printed_command(self, outcome: str, expected_part: str) -> None:
        """Run the command that the script printed for this outcome, which must contain `expected_part`.

        No SAFE_DEPLOY_ variable except the key is set.
        """
        commands = re.findall(r"run: (.*? --outcome \w+)", self.stderr)
        [command_line] = [command for command in commands if command.endswith(outcome)]
        assert expected_part in command_line
        env = {**self.machine.environment(self.machine.folder, logged_in=True), "SAFE_DEPLOY_KEY": KEYS["deployer"]}
        process = subprocess.run(["bash", "-c", command_line], env=env, capture_output=True, check=False, text=True)
        assert process.returncode == 0, process.stderr
