"""Knows what the platform shows about the slots of a Function App: the task hub that each is set to, and whether that
setting stays with its slot. Hides `az`, its commands and its output.

App settings hold connection strings. `az` is asked for nothing but names and the one value, and what it prints is never
put into a message: not even its errors, of which only the code is.
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
"""The slot that is the Function App itself."""

AZ_TIMEOUT_SECONDS = 60
"""How long one call of `az` may take. It needs one to three seconds where all is well."""

_SLOT_NAMES_API_VERSION = "2022-03-01"
"""Without a version `az resource` asks the subscription for one, which an identity of the pipeline may not be allowed
to do. This one is old enough for every cloud."""

# These become arguments of a command, on Windows of a batch file, and parts of a query: no quotes, no `-` in front.
_NAME_PATTERNS = {
    "resource group": r"[\w.()][\w.()-]{0,89}",
    "function app": r"[A-Za-z0-9]([A-Za-z0-9-]{0,58}[A-Za-z0-9])?",
    "slot": r"[A-Za-z0-9]([A-Za-z0-9-]{0,57}[A-Za-z0-9])?",
    "app setting": r"[A-Za-z_][A-Za-z0-9_.:-]{0,199}",
    "subscription": r"[\w.()][\w .()-]{0,89}",
}

_TASK_HUB_PATTERN = r"[A-Za-z][A-Za-z0-9]{2,44}"
"""The server's rule for the name of a task hub."""


class AzureUnavailable(CommandError):
    """The platform cannot be looked at. The message is one line, says what to do, and holds no secret."""


@dataclass(frozen=True, slots=True)
class FunctionAppTarget:
    """The Function App to look at, and the app setting that names its task hub. Without a subscription it is the one
    that `az` is set to. Raises `UsageError` if one of them cannot be such a name."""

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
    """Looks at one Function App. Every call asks anew: a slot may have been swapped in between."""

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

    def task_hub(self, slot: str) -> str | None:
        """The task hub that the slot is set to, and None if it has no such setting. Raises `AzureUnavailable`."""
        setting = self._target.task_hub_setting
        names, values = self._query_setting(slot, setting)
        # App Service takes names that differ in case only for the same setting, and so does the Functions host. A query
        # of `az` cannot.
        same = [name for name in names if _equals_ignoring_case(name, setting) and _is_valid_name("app setting", name)]
        if not same:
            return None
        if setting not in same:
            setting = same[0]
            _, values = self._query_setting(slot, setting)
        if not values:
            raise AzureUnavailable(
                f"az does not show the app setting {setting} of {self._describe_slot(slot)}, which is there. "
                "Try again; if it stays so, update az."
            )
        return self._validate_task_hub_name(values[0], setting, slot) if values[0] else None

    def is_task_hub_setting_sticky(self) -> bool:
        """Whether the setting stays with its slot at a swap. Raises `AzureUnavailable`.

        The app has one list of such names for all of its slots. It is read itself, because `slotSetting`, which `az`
        shows with a setting, is not seen in a slot without the setting, and is false where the cases of the two differ.
        """
        answer = self._query(
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
        names = answer.get("names", "")
        if names is None:
            return False
        return any(_equals_ignoring_case(name, self._target.task_hub_setting) for name in self._require_strings(names))

    def _query_setting(self, slot: str, name: str) -> tuple[list[str], list[str]]:
        """The names of all settings of a slot, and of the values only that of the setting with exactly this name."""
        if not _is_valid_name("slot", slot):
            raise AzureUnavailable(f"{slot!r} cannot be the name of a slot: {_SLOT_NAME_RULE}. Check --slot.")
        answer = self._query(
            "functionapp config appsettings list",
            {
                "--name": self._target.function_app,
                "--slot": None if _equals_ignoring_case(slot, PRODUCTION) else slot,
                "--query": f"{{names:[].name,values:[?name=='{name}'].value}}",
            },
            self._describe_slot(slot),
        )
        return self._require_strings(answer.get("names")), self._require_strings(answer.get("values"))

    def _require_strings(self, values: object) -> list[str]:
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise AzureUnavailable(
                f"az printed something other than it was asked for about {self._describe_slot(PRODUCTION)}. Update az."
            )
        return values

    def _validate_task_hub_name(self, value: str, setting: str, slot: str) -> str:
        where = f"The app setting {setting} of {self._describe_slot(slot)}"
        if value.lower().startswith("@microsoft."):
            raise AzureUnavailable(
                f"{where} is a reference to Key Vault or App Configuration, which az does not resolve. "
                "Set it to the name of the task hub itself."
            )
        if re.fullmatch(_TASK_HUB_PATTERN, value) is None:
            raise AzureUnavailable(
                f"{where} holds no name of a task hub (3 to 45 letters and digits, a letter first). "
                "Check --task-hub-setting, and the setting."
            )
        return value

    def _describe_slot(self, slot: str) -> str:
        app = f"function app {self._target.function_app!r} in resource group {self._target.resource_group!r}"
        return app if _equals_ignoring_case(slot, PRODUCTION) else f"slot {slot!r} of {app}"

    def _query(self, command: str, options: dict[str, str | None], resource: str) -> dict[str, Any]:
        """What `az` answers, a JSON object. Raises `AzureUnavailable`."""
        of_all = {"--subscription": self._target.subscription, "--resource-group": self._target.resource_group}
        arguments = command.split()
        for option, value in {**of_all, **options, "--output": "json"}.items():
            arguments += [] if value is None else [option, value]
        manual_command = f"To see why, run: az {shlex.join(arguments)}"
        code, out, err = self._run_az(arguments, resource)
        if code != 0:
            raise AzureUnavailable(_describe_failure(code, err, resource, manual_command))
        try:
            answer = json.loads(out)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            # No cause is passed on: it would carry the text that was to be read.
            raise AzureUnavailable(
                f"az did not print the JSON that it was asked for about {resource}. {manual_command}"
            )
        return answer

    def _run_az(self, arguments: list[str], resource: str) -> tuple[int, str, str]:
        whole = os.environ if self._environment is None else self._environment
        environment = {name: value for name, value in whole.items() if name not in SECRET_VARIABLES}
        # On Windows this finds az.cmd, which starting "az" would not.
        program = shutil.which("az", path=environment.get("PATH", os.defpath))
        if program is None:
            raise AzureUnavailable("az, the Azure CLI, is not on the PATH. Install it where this runs.")
        try:
            process = subprocess.Popen(  # noqa: S603  # without a shell, and every name is checked
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
            raise AzureUnavailable(
                f"{program} cannot be started: {error.strerror}. Install the Azure CLI anew."
            ) from None
        with process:
            try:
                out, err = process.communicate(timeout=self._timeout_seconds)
            except subprocess.TimeoutExpired:
                _kill_process_group(process)
                raise AzureUnavailable(
                    f"az did not answer within {self._timeout_seconds:g} seconds about {resource}. "
                    "Try again; if it stays so, see whether `az account show` answers."
                ) from None
            except BaseException:
                _kill_process_group(process)
                raise
        return process.returncode, out, err


def parse_swap_command(command: Sequence[str], task_hub_setting: str) -> tuple[FunctionAppTarget, str] | None:
    """What `az functionapp|webapp deployment slot swap` will swap with production: the app and the slot.

    None for every other command, for the steps of a swap with preview, for another target slot, and if the command
    does not itself name resource group, app and slot. Raises `UsageError` if `task_hub_setting` cannot be a
    setting's name.
    """
    if len(command) < 5 or PureWindowsPath(command[0]).stem.lower() != "az":
        return None
    if command[1] not in {"functionapp", "webapp"} or list(command[2:5]) != ["deployment", "slot", "swap"]:
        return None
    # `az` itself reads its arguments with argparse, so abbreviations and joined forms are the same here.
    parser = _SwapArgumentParser(add_help=False)
    parser.add_argument("--resource-group", "-g")
    parser.add_argument("--name", "-n")
    parser.add_argument("--slot", "-s")
    parser.add_argument("--target-slot", default=PRODUCTION)
    parser.add_argument("--action", default="swap")
    parser.add_argument("--subscription")
    try:
        given, _ = parser.parse_known_args(list(command[5:]))
    except _ArgumentError:
        return None
    if given.action.lower() != "swap" or not _equals_ignoring_case(given.target_slot, PRODUCTION):
        return None
    names = {"resource group": given.resource_group, "function app": given.name, "slot": given.slot}
    if given.subscription is not None:
        names["subscription"] = given.subscription
    if _equals_ignoring_case(given.slot or "", PRODUCTION) or not all(
        _is_valid_name(kind, name or "") for kind, name in names.items()
    ):
        return None
    return FunctionAppTarget(given.resource_group, given.name, task_hub_setting, given.subscription), given.slot


class _ArgumentError(Exception):
    """These are no arguments of a swap."""


class _SwapArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _ArgumentError(message)


_SLOT_NAME_RULE = "letters, digits and hyphens, and no hyphen at either end"


def _is_valid_name(kind: str, name: str) -> bool:
    return re.fullmatch(_NAME_PATTERNS[kind], name) is not None


def _require_valid_name(kind: str, name: str) -> None:
    if not _is_valid_name(kind, name):
        raise UsageError(f"{name!r} cannot be the name of {'an' if kind[0] in 'aeiou' else 'a'} {kind}.")


def _equals_ignoring_case(one: str, other: str) -> bool:
    return one.lower() == other.lower()


def _describe_failure(code: int, err: str, resource: str, manual_command: str) -> str:
    """One line about a failure of `az`, by what is known of its errors."""
    if "az login" in err:
        return "az is not logged in. Run `az login`, in a pipeline before this step and with the pipeline's identity."
    found = re.search(r"^(?:ERROR: )?\(([A-Za-z]{3,60})\)|^Code: ([A-Za-z]{3,60})\s*$", err, re.MULTILINE)
    error_code = (found[1] or found[2]) if found else ""
    if code == 3 or error_code.endswith("NotFound"):  # az exits with 3 for what does not exist, and only for that
        return (
            f"Azure does not show {resource}. Check --slot, --function-app and --resource-group, "
            "and the subscription with `az account show`."
        )
    if error_code in {"AuthorizationFailed", "LinkedAuthorizationFailed", "Forbidden"}:
        return (
            f"az may not read the settings of {resource}. "
            "Give its identity the role Website Contributor on the function app."
        )
    code_text = " ".join(filter(None, ["exit code", str(code), error_code]))
    return f"az failed with {code_text} about {resource}. {manual_command}"


def _kill_process_group(process: subprocess.Popen[str]) -> None:
    """Ends `az` with all that it started: it is a script around a Python, which would keep the pipes open."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
