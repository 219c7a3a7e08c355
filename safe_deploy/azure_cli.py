"""Runs `az`, the Azure CLI, and reports its failures. Hides its options, its exit codes and its output.

What `az` prints may hold secrets. Therefore its output never becomes part of a message, and of its errors only the
error code does. Warnings that it prints to stderr are ignored if it succeeds.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_deploy.errors import CommandError, UsageError
from safe_deploy.subprocesses import SECRET_VARIABLES

AZ_TIMEOUT_SECONDS = 60
"""How long one call of `az` may take that reads. It normally takes one to three seconds."""

# These names become command arguments (on Windows those of a batch file) and parts of a query. The patterns therefore
# exclude quotes, and a hyphen at the start.
_NAME_PATTERNS = {
    "resource group": r"[\w.()][\w.()-]{0,89}",
    "function app": r"[A-Za-z0-9]([A-Za-z0-9-]{0,58}[A-Za-z0-9])?",
    "slot": r"[A-Za-z0-9]([A-Za-z0-9-]{0,57}[A-Za-z0-9])?",
    "app setting": r"[A-Za-z_][A-Za-z0-9_.:-]{0,199}",
    "subscription": r"[\w.()][\w .()-]{0,89}",
    "scheduler": r"[A-Za-z0-9][A-Za-z0-9-]{2,63}",
    "task hub": r"[A-Za-z][A-Za-z0-9]{2,44}",
}

_NAME_OPTIONS = {
    "resource group": "resource-group",
    "function app": "function-app",
    "slot": "slot",
    "app setting": "task-hub-setting",
    "subscription": "subscription in the swap command",
    "scheduler": "scheduler",
    "task hub": "task-hub",
}


_OptionValue = str | tuple[str, ...] | None
"""The value of an option of `az`, or its values. With None the option is left out."""


class AzureUnavailable(CommandError):
    """Azure cannot be queried or changed. The message is one line, says what to do, and holds no secret."""


class AzureResourceNotFound(AzureUnavailable):
    """Azure has no such resource, or the identity of `az` cannot see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureResource:
    """What a call of `az` is about, in words for messages.

    `check` lists the options that name the resource. `permission` is what the identity of `az` needs, with the role.
    """

    description: str
    check: str
    permission: str


class AzureCli:
    """Runs `az` in the environment of this process, or in the one given, without the key of the server."""

    def __init__(
        self, *, environment: Mapping[str, str] | None = None, timeout_seconds: float = AZ_TIMEOUT_SECONDS
    ) -> None:
        self._environment = environment
        self._timeout_seconds = timeout_seconds

    def query(self, command: str, options: Mapping[str, _OptionValue], resource: AzureResource) -> dict[str, Any]:
        """Run a command and return the JSON object that it prints. Raises AzureUnavailable."""
        arguments = _build_arguments(command, {**options, "--output": "json"})
        stdout = self._run_successfully(arguments, resource, self._timeout_seconds)
        try:
            response = json.loads(stdout)
        except ValueError:
            response = None
        if not isinstance(response, dict):
            # Not raised inside `except`: the ValueError holds az's output, which may hold secrets.
            raise AzureUnavailable(
                f"az did not print a JSON object about {resource.description}. {_suggest_manual_run(arguments)}"
            )
        return response

    def change(
        self,
        command: str,
        options: Mapping[str, _OptionValue],
        resource: AzureResource,
        *,
        timeout_seconds: float,
    ) -> None:
        """Run a command whose output does not matter. Raises AzureUnavailable.

        After a failure the change may still have been made, or may be made later.
        """
        self._run_successfully(_build_arguments(command, {**options, "--output": "none"}), resource, timeout_seconds)

    def patch_resource(
        self,
        options: Mapping[str, _OptionValue],
        properties: object,
        resource: AzureResource,
        *,
        timeout_seconds: float,
    ) -> None:
        """Run `az resource patch`, which changes these properties of a resource and no others. Raises AzureUnavailable.

        After a failure the change may still have been made, or may be made later.
        """
        self.change_by_file(
            "resource patch",
            options,
            ("--properties", properties),
            resource,
            timeout_seconds=timeout_seconds,
            suggested_value=json.dumps(properties),
        )

    def change_by_file(
        self,
        command: str,
        options: Mapping[str, _OptionValue],
        file_option: tuple[str, object],
        resource: AzureResource,
        *,
        timeout_seconds: float,
        suggested_value: str = "@FILE",
    ) -> None:
        """Run a command with an option whose JSON goes through a file: its name and its value. Raises
        AzureUnavailable.

        The value may hold a secret: arguments are seen by all users of the machine, and the file by this one only.
        Besides, the quotes of JSON do not survive the batch file that runs `az` on Windows. `suggested_value` is what
        a message suggests in place of the file.
        """
        arguments = _build_arguments(command, {**options, "--output": "none"})
        option, body = file_option
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "body.json"
            file.write_text(json.dumps(body), encoding="utf-8")
            self._run_successfully(
                [*arguments, option, f"@{file}"],
                resource,
                timeout_seconds,
                manual_arguments=[*arguments, option, suggested_value],
            )

    def _run_successfully(
        self,
        arguments: list[str],
        resource: AzureResource,
        timeout_seconds: float,
        *,
        manual_arguments: list[str] | None = None,
    ) -> str:
        """The stdout of `az`. Raises AzureUnavailable. `manual_arguments`: those that a message suggests, if they are
        others."""
        code, stdout, stderr = self._run(arguments, resource, timeout_seconds)
        if code != 0:
            raise _parse_failure(code, stderr, arguments=manual_arguments or arguments, resource=resource)
        return stdout

    def _run(self, arguments: list[str], resource: AzureResource, timeout_seconds: float) -> tuple[int, str, str]:
        """The exit code, stdout and stderr of `az`. Raises AzureUnavailable if it cannot be started or times out."""
        all_variables = os.environ if self._environment is None else self._environment
        environment = {name: value for name, value in all_variables.items() if name not in SECRET_VARIABLES}
        # `which` finds az.cmd on Windows. Starting "az" does not.
        program = shutil.which("az", path=environment.get("PATH", os.defpath))
        if program is None:
            raise AzureUnavailable(
                "az, the Azure CLI, is not on the PATH. Install it on the machine that runs safe-deploy."
            )
        try:
            process = subprocess.Popen(  # noqa: S603  # no shell, and every name is validated
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                encoding="utf-8",
                errors="replace",
                process_group=0,
            )
        except OSError as error:
            raise AzureUnavailable(f"{program} cannot be started: {error.strerror}. Reinstall the Azure CLI.") from None
        with process:
            try:
                stdout, stderr = process.communicate(timeout=timeout_seconds)
            except subprocess.TimeoutExpired:
                _kill_process_group(process)
                raise AzureUnavailable(
                    f"az did not answer within {timeout_seconds:g} seconds about {resource.description}. Run the "
                    "command again. If that does not help, check whether `az account show` answers."
                ) from None
            except BaseException:
                _kill_process_group(process)
                raise
        return process.returncode, stdout, stderr


def is_valid_name(kind: str, name: str) -> bool:
    """Whether Azure allows this name for a resource of this kind, and `az` cannot misread it."""
    return re.fullmatch(_NAME_PATTERNS[kind], name) is not None


def require_valid_name(kind: str, name: str) -> None:
    """Raises UsageError for a name that Azure does not allow."""
    if not is_valid_name(kind, name):
        article = "an" if kind[0] in "aeiou" else "a"
        raise UsageError(f"{name!r} is not a valid name of {article} {kind}. Check --{_NAME_OPTIONS[kind]}")


def require_strings(values: object, resource: AzureResource) -> list[str]:
    """The values as a list of strings. Raises AzureUnavailable if the JSON that `az` printed is no such list."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise AzureUnavailable(f"az printed unexpected JSON about {resource.description}. Update az.")
    return values


def _build_arguments(command: str, options: Mapping[str, _OptionValue]) -> list[str]:
    """The words of the command with its options. Options whose value is None are left out."""
    arguments = command.split()
    for option, value in options.items():
        if value is not None:
            arguments += [option, value] if isinstance(value, str) else [option, *value]
    return arguments


def _suggest_manual_run(arguments: list[str]) -> str:
    """The end of an error message: the command to run by hand."""
    return f"To see why, run: az {shlex.join(arguments)}"


def _parse_failure(code: int, stderr: str, *, arguments: list[str], resource: AzureResource) -> AzureUnavailable:
    """The error for a failure of `az`, with advice for the error codes that are known."""
    errors = "\n".join(line for line in stderr.splitlines() if not line.startswith("WARNING:"))
    if "az login" in errors:
        return AzureUnavailable(
            "az is not logged in. Run `az login`. In a pipeline, log in with the pipeline's identity before this step."
        )
    if code == 2 and arguments[0] == "durabletask":  # az exits with 2 if it does not know a command or an option
        return AzureUnavailable(
            "az has no extension durabletask, or an old one that lacks a command. Run `az extension add --upgrade "
            "--name durabletask` on the machine that runs safe-deploy. The extension needs az 2.75 or newer."
        )
    match = re.search(r"^(?:ERROR: )?\(([A-Za-z]{3,60})\)|^Code: ([A-Za-z]{3,60})\s*$", errors, re.MULTILINE)
    error_code = (match[1] or match[2]) if match else ""
    if code == 3 or error_code.endswith("NotFound"):  # az exits with 3 only if a resource does not exist
        return AzureResourceNotFound(
            f"Azure has no {resource.description}, or the identity cannot see it. Check {resource.check}, and the "
            "subscription with `az account show`."
        )
    if error_code in {"AuthorizationFailed", "LinkedAuthorizationFailed", "Forbidden"}:
        return AzureUnavailable(f"az is not allowed to {resource.permission}.")
    if "quota" in error_code.lower():
        return AzureUnavailable(
            f"Azure refuses to create {resource.description}: a quota is used up ({error_code}). Remove releases that "
            "have drained with `safe-deploy retire`, or ask Azure for more."
        )
    code_text = " ".join(filter(None, ["exit code", str(code), error_code]))
    return AzureUnavailable(
        f"az failed with {code_text} about {resource.description}. {_suggest_manual_run(arguments)}"
    )


def _kill_process_group(process: subprocess.Popen[str]) -> None:
    """Kill `az` and the processes that it has started. `az` is a script that starts Python, which would keep the pipes
    open."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
