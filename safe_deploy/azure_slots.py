"""Reads the deployment slots of a Function App in Azure: the task hub of each slot, and whether the task hub name stays
with its slot. Hides `az`, its commands and its output.

App settings hold connection strings. Therefore `az` is queried for the names of the settings and one value only. Its
output never becomes part of a message, and of its errors only the error code does.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, NoReturn

from safe_deploy.errors import CommandError, UsageError
from safe_deploy.subprocesses import SECRET_VARIABLES

PRODUCTION = "production"
"""The name of the slot that is the Function App itself."""

AZ_TIMEOUT_SECONDS = 60
"""How long one call of `az` may take. It normally takes one to three seconds."""

_SLOT_NAMES_API_VERSION = "2022-03-01"
"""Without a version `az resource` looks one up in the subscription, which a pipeline's identity may not be allowed to
do. Every Azure cloud supports this version."""

# These names become command arguments (on Windows those of a batch file) and parts of a query. The patterns therefore
# exclude quotes, and a hyphen at the start.
_NAME_PATTERNS = {
    "resource group": r"[\w.()][\w.()-]{0,89}",
    "function app": r"[A-Za-z0-9]([A-Za-z0-9-]{0,58}[A-Za-z0-9])?",
    "slot": r"[A-Za-z0-9]([A-Za-z0-9-]{0,57}[A-Za-z0-9])?",
    "app setting": r"[A-Za-z_][A-Za-z0-9_.:-]{0,199}",
    "subscription": r"[\w.()][\w .()-]{0,89}",
}

_SLOT_NAME_RULE = "use letters, digits and hyphens, without a hyphen at either end"

_NAME_OPTIONS = {
    "resource group": "resource-group",
    "function app": "function-app",
    "slot": "slot",
    "app setting": "task-hub-setting",
    "subscription": "subscription in the swap command",
}

_TASK_HUB_PATTERN = r"[A-Za-z][A-Za-z0-9]{2,44}"
"""The same pattern as the server's."""


class AzureUnavailable(CommandError):
    """Azure cannot be queried. The message is one line, says what to do, and holds no secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionAppTarget:
    """The Function App to read, and the app setting with its task hub name. Without `subscription`, the subscription
    that `az` has selected is used. Raises UsageError for an invalid name."""

    resource_group: str
    function_app: str
    task_hub_setting: str
    subscription: str | None = None

    def __post_init__(self) -> None:
        _require_valid_name("resource group", self.resource_group)
        _require_valid_name("function app", self.function_app)
        _require_valid_name("app setting", self.task_hub_setting)
        if self.subscription is not None:
            _require_valid_name("subscription", self.subscription)


class DeploymentSlots:
    """Reads one Function App. Nothing is cached, because the slots may be swapped between two calls."""

    def __init__(
        self,
        target: FunctionAppTarget,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = AZ_TIMEOUT_SECONDS,
    ) -> None:
        self._target = target
        self._environment = environment
        self._timeout_seconds = timeout_seconds

    def get_task_hub(self, slot: str) -> str | None:
        """The task hub name in the slot's app setting, None without that setting. Raises AzureUnavailable."""
        setting = self._target.task_hub_setting
        names, values = self._query_setting(slot, setting)
        # App Service and the Functions host ignore the case of a setting's name. A query of `az` does not, so the
        # query is repeated with the name as it is written.
        spellings = [
            name for name in names if _equals_ignoring_case(name, setting) and _is_valid_name("app setting", name)
        ]
        if not spellings:
            return None
        if setting not in spellings:
            setting = spellings[0]
            _, values = self._query_setting(slot, setting)
        if not values:
            raise AzureUnavailable(
                f"az lists the app setting {setting} of {self._describe_slot(slot)}, but does not show its value. Run "
                "the command again. If that does not help, update az."
            )
        return self._validate_task_hub_name(values[0], setting=setting, slot=slot) if values[0] else None

    def is_task_hub_setting_sticky(self) -> bool:
        """Whether the setting with the task hub name stays with its slot at a swap. Raises AzureUnavailable.

        This reads the app's list of sticky names, which is the same for all slots. The member `slotSetting` that `az`
        shows with a setting is not reliable. A slot without the setting does not have it. It is false if the list
        spells the name in another case.
        """
        response = self._query(
            "resource show",
            {
                "--namespace": "Microsoft.Web",
                "--parent": f"sites/{self._target.function_app}",
                "--resource-type": "config",
                "--name": "slotConfigNames",
                "--api-version": _SLOT_NAMES_API_VERSION,
                "--query": "{names:properties.appSettingNames}",
            },
            self._describe_slot(PRODUCTION),
        )
        names = response.get("names", "")
        if names is None:
            return False
        return any(_equals_ignoring_case(name, self._target.task_hub_setting) for name in self._require_strings(names))

    def _query_setting(self, slot: str, name: str) -> tuple[list[str], list[str]]:
        """The names of all app settings of a slot, and the value of the one with exactly this name: a list without
        elements if there is none."""
        if not _is_valid_name("slot", slot):
            raise AzureUnavailable(f"{slot!r} is not a valid name of a slot: {_SLOT_NAME_RULE}. Check --slot.")
        response = self._query(
            "functionapp config appsettings list",
            {
                "--name": self._target.function_app,
                "--slot": None if _equals_ignoring_case(slot, PRODUCTION) else slot,
                "--query": f"{{names:[].name,values:[?name=='{name}'].value}}",
            },
            self._describe_slot(slot),
        )
        return self._require_strings(response.get("names")), self._require_strings(response.get("values"))

    def _require_strings(self, values: object) -> list[str]:
        """The values as a list of strings. Raises AzureUnavailable if the JSON that `az` printed is no such list."""
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise AzureUnavailable(f"az printed unexpected JSON about {self._describe_slot(PRODUCTION)}. Update az.")
        return values

    def _validate_task_hub_name(self, value: str, *, setting: str, slot: str) -> str:
        """The value of the app setting, if it is a task hub name. Raises AzureUnavailable with what to check."""
        subject = f"the app setting {setting} of {self._describe_slot(slot)}"
        if value.lower().startswith("@microsoft."):
            raise AzureUnavailable(
                f"{subject} is a reference to Key Vault or App Configuration, which az does not resolve. "
                "Set it to the task hub name itself."
            )
        if re.fullmatch(_TASK_HUB_PATTERN, value) is None:
            raise AzureUnavailable(
                f"{subject} is not a task hub name (3 to 45 letters and digits, starting with a letter). "
                "Check --task-hub-setting and the value of the setting."
            )
        return value

    def _describe_slot(self, slot: str) -> str:
        """The slot in a message, with its function app and resource group."""
        app = f"function app {self._target.function_app!r} in resource group {self._target.resource_group!r}"
        return app if _equals_ignoring_case(slot, PRODUCTION) else f"slot {slot!r} of {app}"

    def _query(self, command: str, options: dict[str, str | None], resource: str) -> dict[str, Any]:
        """Run `az` and return the JSON object that it prints. Raises AzureUnavailable."""
        target = {"--subscription": self._target.subscription, "--resource-group": self._target.resource_group}
        arguments = command.split()
        for option, value in {**target, **options, "--output": "json"}.items():
            arguments += [] if value is None else [option, value]
        manual_command = f"To see why, run: az {shlex.join(arguments)}"
        code, stdout, stderr = self._run_az(arguments, resource)
        if code != 0:
            raise AzureUnavailable(_describe_failure(code, stderr, resource=resource, manual_command=manual_command))
        try:
            response = json.loads(stdout)
        except ValueError:
            response = None
        if not isinstance(response, dict):
            # Not raised inside `except`: the ValueError holds az's output, which may hold secrets.
            raise AzureUnavailable(f"az did not print a JSON object about {resource}. {manual_command}")
        return response

    def _run_az(self, arguments: list[str], resource: str) -> tuple[int, str, str]:
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
                stdout, stderr = process.communicate(timeout=self._timeout_seconds)
            except subprocess.TimeoutExpired:
                _kill_process_group(process)
                raise AzureUnavailable(
                    f"az did not answer within {self._timeout_seconds:g} seconds about {resource}. Run the command "
                    "again. If that does not help, check whether `az account show` answers."
                ) from None
            except BaseException:
                _kill_process_group(process)
                raise
        return process.returncode, stdout, stderr


def parse_swap_command(command: Sequence[str], task_hub_setting: str) -> tuple[FunctionAppTarget, str] | None:
    """The Function App and the slot that `az functionapp|webapp deployment slot swap` swaps with production.

    None for every other command, for a step of a swap with preview, for another target slot, and for a command that
    does not name resource group, app and slot. Raises UsageError for an invalid `task_hub_setting`.
    """
    if len(command) < 5 or PureWindowsPath(command[0]).stem.lower() != "az":
        return None
    if command[1] not in {"functionapp", "webapp"} or list(command[2:5]) != ["deployment", "slot", "swap"]:
        return None
    # `az` parses its arguments with argparse, too, so abbreviated options and forms such as -gshop match.
    parser = _SwapArgumentParser(add_help=False)
    parser.add_argument("--resource-group", "-g")
    parser.add_argument("--name", "-n")
    parser.add_argument("--slot", "-s")
    parser.add_argument("--target-slot", default=PRODUCTION)
    parser.add_argument("--action", default="swap")
    parser.add_argument("--subscription")
    try:
        arguments, _ = parser.parse_known_args(list(command[5:]))
    except _ArgumentError:
        return None
    if arguments.action.lower() != "swap" or not _equals_ignoring_case(arguments.target_slot, PRODUCTION):
        return None
    names = {"resource group": arguments.resource_group, "function app": arguments.name, "slot": arguments.slot}
    if arguments.subscription is not None:
        names["subscription"] = arguments.subscription
    if _equals_ignoring_case(arguments.slot or "", PRODUCTION) or not all(
        _is_valid_name(kind, name or "") for kind, name in names.items()
    ):
        return None
    target = FunctionAppTarget(
        resource_group=arguments.resource_group,
        function_app=arguments.name,
        task_hub_setting=task_hub_setting,
        subscription=arguments.subscription,
    )
    return target, arguments.slot


class _ArgumentError(Exception):
    """The arguments are not those of a swap."""


class _SwapArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the process, as argparse does by itself."""
        raise _ArgumentError(message)


def _is_valid_name(kind: str, name: str) -> bool:
    """Whether a name keeps Azure's rules for names of this kind. A wrong one is reported before `az` is run."""
    return re.fullmatch(_NAME_PATTERNS[kind], name) is not None


def _require_valid_name(kind: str, name: str) -> None:
    """Raises UsageError for a name that Azure does not allow."""
    if not _is_valid_name(kind, name):
        article = "an" if kind[0] in "aeiou" else "a"
        raise UsageError(f"{name!r} is not a valid name of {article} {kind}. Check --{_NAME_OPTIONS[kind]}")


def _equals_ignoring_case(first: str, second: str) -> bool:
    return first.lower() == second.lower()


def _describe_failure(code: int, stderr: str, *, resource: str, manual_command: str) -> str:
    """One line about a failure of `az`, with advice for the error codes that are known."""
    if "az login" in stderr:
        return (
            "az is not logged in. Run `az login`. In a pipeline, log in with the pipeline's identity before this step."
        )
    match = re.search(r"^(?:ERROR: )?\(([A-Za-z]{3,60})\)|^Code: ([A-Za-z]{3,60})\s*$", stderr, re.MULTILINE)
    error_code = (match[1] or match[2]) if match else ""
    if code == 3 or error_code.endswith("NotFound"):  # az exits with 3 only if a resource does not exist
        return (
            f"Azure has no {resource}, or the identity cannot see it. Check --slot, --function-app and "
            "--resource-group, and the subscription with `az account show`."
        )
    if error_code in {"AuthorizationFailed", "LinkedAuthorizationFailed", "Forbidden"}:
        return (
            f"az is not allowed to read the settings of {resource}. "
            "Give its identity the role Website Contributor on the function app."
        )
    code_text = " ".join(filter(None, ["exit code", str(code), error_code]))
    return f"az failed with {code_text} about {resource}. {manual_command}"


def _kill_process_group(process: subprocess.Popen[str]) -> None:
    """Kill `az` and the processes that it has started. `az` is a script that starts Python, which would keep the pipes
    open."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
