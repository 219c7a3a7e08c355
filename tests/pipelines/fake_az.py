"""A fake `az` and the Function Apps behind it: a program that stores its cloud in a JSON file.

Output and exit codes are those of the Azure CLI 2.91, as far as it could be tried without an account. The program that
`install_fake_az` writes imports only this module of the project. Pipelines call it often, so this module imports
little. The file:

    {"apps": {"shop": {"resourceGroup": "shop-rg", "sticky": ["NAME"], "slots": {
        "production": {"settings": {"TASK_HUB": {"value": "v41", "slotSetting": false}}, "package": "app.zip",
                       "state": "Running"}}}},
     "calls": [["functionapp", "show", ...]], "environments": [["SAFE_DEPLOY_SERVER"]], "faults": {"swap": {...}}}

`sticky` is the app's list of slot settings, from which `slotSetting` is shown, as in Azure."""

# ruff: noqa: PTH100, PTH105, PTH113, PTH119, PTH120, PTH123  # importing pathlib takes longer than a whole call
from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import time

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any, NoReturn

    Effect = Callable[[dict[str, Any], "ParsedOptions"], Any]

PRODUCTION = "production"
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"


class FakeAzure:
    """The fake's cloud, as tests use it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def reset(self, apps: dict[str, Any]) -> None:
        """Replace the cloud by one with these apps, no calls and no faults.

        A setting may be just its value, instead of `{"value": ..., "slotSetting": false}`."""
        for app in apps.values():
            for slot in app["slots"].values():
                settings = slot.setdefault("settings", {})
                for name, setting in settings.items():
                    if isinstance(setting, str):
                        settings[name] = {"value": setting, "slotSetting": False}
        with _locked(self.path) as state:
            state.clear()
            state.update(_empty_state(), apps=apps)

    def settings(self, app: str, slot: str = PRODUCTION) -> dict[str, str]:
        """The values of all settings of a slot."""
        settings = self._slot(app, slot)["settings"]
        return {name: setting["value"] for name, setting in settings.items()}

    def package(self, app: str, slot: str = PRODUCTION) -> str | None:
        """The file name of the package in a slot; None if nothing was deployed."""
        package: str | None = self._slot(app, slot).get("package")
        return package

    def running(self, app: str, slot: str = PRODUCTION) -> bool:
        return bool(self._slot(app, slot).get("state", "Running") == "Running")

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of every call so far, in the order in which the calls began."""
        with _locked(self.path) as state:
            calls: list[list[str]] = state["calls"]
        return calls

    def count_calls(self, command: str) -> int:
        """The number of calls of a command, by the words that it begins with."""
        words = command.split()
        return sum(call[: len(words)] == words for call in self.calls)

    @property
    def environments(self) -> list[list[str]]:
        """The names of the variables of each call that begin with SAFE_DEPLOY_."""
        with _locked(self.path) as state:
            environments: list[list[str]] = state["environments"]
        return environments

    def fault(
        self,
        command: str,
        *,
        code: int | None = 1,
        message: str = "The service is unavailable.",
        done: bool = False,
        times: int | None = None,
        delay: float = 0,
        delay_after: float = 0,
        output: str | None = None,
        until: str | None = None,
    ) -> None:
        """Make the next calls of a command fail: its key in `COMMANDS`, or `all` commands except `login`.

        The command exits with `code` and `message`, before its effect, or after it if `done`. With `code=None` it
        succeeds. `delay` and `delay_after` are seconds before and after the effect. The effect waits until the file
        `until` exists. `output` replaces the printed result, also of a failing call. The fault lasts for `times` calls,
        or until it is cleared."""
        fault: dict[str, Any] = {"exit": code, "message": message, "done": done, "times": times}
        fault |= {"delay": delay, "delay_after": delay_after, "stdout": output, "until": until}
        with _locked(self.path) as state:
            state["faults"][command] = fault

    def clear_faults(self) -> None:
        with _locked(self.path) as state:
            state["faults"] = {}

    def _slot(self, app: str, slot: str) -> dict[str, Any]:
        with _locked(self.path) as state:
            slot_state: dict[str, Any] = state["apps"][app]["slots"][slot]
        return slot_state


def install_fake_az(folder: Path, state: Path) -> None:
    """Write the program `az` into a folder. Its cloud is in the file `state`. It needs no environment variables."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "az"
    # Without site packages and with this module's bytecode, it starts quickly.
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.append({os.path.dirname(os.path.abspath(__file__))!r})\n"
        f"import fake_az\nraise SystemExit(fake_az.main(sys.argv[1:], {str(state.resolve())!r}))\n"
    )
    program.chmod(0o755)


class AzError(Exception):
    """An error as the real `az` reports it: a message and an exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def main(arguments: list[str], path: str) -> int:
    """Run one call of `az`. Returns its exit code."""
    words = list(arguments)
    for index, argument in enumerate(arguments):
        if argument.startswith("-"):
            words = arguments[:index]
            break
    command = COMMANDS.get(" ".join(words))
    key = command[0] if command else ""
    fault = _record_call(path, arguments, key)
    try:
        if command is None:
            _unrecognized(words)
        else:
            options = _parse_options(" ".join(words), command[1], arguments[len(words) :])
            result = _run_command(path, fault, command[2], options)
            if fault.get("stdout") is None:
                _print_result(result, options)
            else:
                sys.stdout.write(fault["stdout"])
    except AzError as error:
        sys.stdout.write(fault.get("stdout") or "")
        sys.stderr.write(f"ERROR: {error.message}\n")
        return error.code
    return 0


def _run_command(path: str, fault: dict[str, Any], effect: Effect, options: ParsedOptions) -> Any:
    fails = fault.get("exit") is not None
    time.sleep(fault.get("delay") or 0)
    while (until := fault.get("until")) and not os.path.exists(until):  # noqa: PTH110 (as quick as it gets)
        time.sleep(0.02)
    if fails and not fault.get("done"):
        raise _fault_error(fault)
    # Wait without the lock, so that other calls continue. One of them may stop this process.
    with _locked(path) as state:
        result = effect(state, options)
    time.sleep(fault.get("delay_after") or 0)
    if fails:
        raise _fault_error(fault)
    return result


def _record_call(path: str, arguments: list[str], key: str) -> dict[str, Any]:
    """Record the call. Returns its fault, or an empty dictionary."""
    with _locked(path) as state:
        state["calls"].append(arguments)
        state["environments"].append(sorted(name for name in os.environ if name.startswith("SAFE_DEPLOY_")))
        for kind in [key] if key == "login" else [key, "all"]:
            fault: dict[str, Any] | None = state["faults"].get(kind)
            if fault is None:
                continue
            times = fault.get("times")
            if times is not None:
                fault["times"] = times - 1
                if times <= 1:
                    del state["faults"][kind]
            return fault
    return {}


def _fault_error(fault: dict[str, Any]) -> AzError:
    return AzError(fault.get("message") or "The service is unavailable.", fault["exit"])


def _empty_state() -> dict[str, Any]:
    return {"apps": {}, "calls": [], "environments": [], "faults": {}}


@contextlib.contextmanager
def _locked(path: Path | str) -> Iterator[dict[str, Any]]:
    """The cloud, locked for one caller. Changes are saved at the end of the block, all or none."""
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = ""
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            before = file.read()
        state = {**_empty_state(), **json.loads(before or "{}")}
        yield state
        after = json.dumps(state, indent=2)
        if after != before:
            with open(f"{path}.draft", "w") as draft:
                draft.write(after)
            os.replace(f"{path}.draft", path)


class ParsedOptions:
    """The options of a call, by their long names with underscores."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return self._values[name]


_COMMON = "--subscription --query --output/-o --only-show-errors? --verbose? --debug?"


def _parse_options(command: str, options: str, arguments: list[str]) -> ParsedOptions:
    """Parse the arguments that follow the words of a command. Raises AzError with exit code 2, as `az` does.

    `options` declares the options, separated by spaces: `--long/-s`, followed by `!` if the option is required, `+` if
    it takes several values, `?` if it takes none."""
    declared = [(option, option.rstrip("!+?").split("/")) for option in f"{options} {_COMMON}".split()]
    values: dict[str, Any] = {_option_name(flags): False if "?" in option else None for option, flags in declared}
    remaining, unknown = list(arguments), []
    while remaining:
        argument, separator, attached_value = remaining.pop(0).partition("=")
        matching = [(option, flags) for option, flags in declared if argument in flags]
        if not matching:
            unknown.append(f"{argument}{separator}{attached_value}")
            continue
        [(option, flags)] = matching
        if "?" in option:
            values[_option_name(flags)] = True
            continue
        option_values = [attached_value] if separator else []
        while not separator and remaining and not remaining[0].startswith("-") and ("+" in option or not option_values):
            option_values.append(remaining.pop(0))
        if not option_values:
            expected = "at least one argument" if "+" in option else "one argument"
            raise AzError(f"argument {'/'.join(flags)}: expected {expected}", 2)
        values[_option_name(flags)] = option_values if "+" in option else option_values[0]
    if unknown:
        raise AzError(f"unrecognized arguments: {' '.join(unknown)}", 2)
    missing = ["/".join(flags) for option, flags in declared if "!" in option and values[_option_name(flags)] is None]
    if missing:
        raise AzError(f"the following arguments are required: {', '.join(missing)}", 2)
    values["output"] = values["output"] or "json"
    if values["output"] not in {"json", "tsv", "none"}:
        raise AzError(f"'{values['output']}' is not a valid value for '--output'.", 2)
    return ParsedOptions(values)


def _option_name(flags: list[str]) -> str:
    return flags[0].removeprefix("--").replace("-", "_")


def _unrecognized(words: list[str]) -> NoReturn:
    """Raises AzError with the first word that no command has at its position."""
    ends = [end for end in range(1, len(words)) if any(name.split()[:end] == words[:end] for name in COMMANDS)]
    wrong = words[max(ends, default=0)] if words else ""
    raise AzError(f"'{wrong}' is misspelled or not recognized by the system.", 2)


def _print_result(result: Any, options: ParsedOptions) -> None:
    if options.query:
        result = _evaluate_query(options.query, result)
    if result is None or options.output == "none":
        return
    if options.output == "json":
        print(json.dumps(result, indent=2))
        return
    for row in result if isinstance(result, list) else [result]:
        cells = row.values() if isinstance(row, dict) else row if isinstance(row, list) else [row]
        print("\t".join("" if isinstance(cell, dict) else str(cell) for cell in cells))


# --- JMESPath, as far as pipelines use it ---


def _evaluate_query(query: str, data: Any) -> Any:
    for step in _split(query, "|"):
        value = None
        for choice in _split(step, "||"):
            value = _evaluate_path(choice.strip(), data)
            if value:
                break
        data = value
    return data


def _split(text: str, separator: str) -> list[str]:
    """Split a query at separators that are outside of brackets and quotes."""
    parts, start, depth = [], 0, 0
    for token in re.finditer(r"'[^']*'|[\[{(]|[\]})]|\|+|[,:]", text):
        depth += (token[0] in "[{(") - (token[0] in "]})")
        if token[0] == separator and depth == 0:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def _evaluate_path(path: str, data: Any) -> Any:
    path = path.removeprefix(".")
    if not path or data is None:
        return data
    if member := re.match(r"[A-Za-z_]\w*", path):
        return _evaluate_path(path[member.end() :], data.get(member[0]) if isinstance(data, dict) else None)
    if quoted := re.match(r'"([^"]+)"', path):
        return _evaluate_path(path[quoted.end() :], data.get(quoted[1]) if isinstance(data, dict) else None)
    if index := re.match(r"\[(\d+)\]", path):
        items = data if isinstance(data, list) else []
        return _evaluate_path(path[index.end() :], items[int(index[1])] if int(index[1]) < len(items) else None)
    if projection := re.match(r"\[(?:\?\s*(\w+)\s*==\s*'([^']*)'\s*)?\]", path):
        if not isinstance(data, list):
            return None
        name, value = projection.groups()
        chosen = [item for item in data if name is None or item.get(name) == value]
        values = [_evaluate_path(path[projection.end() :], item) for item in chosen]
        return [item for item in values if item is not None]
    if path.startswith("{") and path.endswith("}"):
        pairs = [_split(pair, ":") for pair in _split(path[1:-1], ",")]
        return {name.strip(): _evaluate_query(query, data) for name, query in pairs}
    raise AzError(f"argument --query: invalid jmespath_type value: '{path}'", 2)


# --- effects of the commands ---


def _not_found_error(kind: str, group: str) -> AzError:
    message = f"The Resource 'Microsoft.Web/{kind}' under resource group '{group}' was not found."
    return AzError(f"(ResourceNotFound) {message}\nCode: ResourceNotFound\nMessage: {message}", 3)


def _app(state: dict[str, Any], options: ParsedOptions, name: str | None = None) -> dict[str, Any]:
    wanted = name or options.name
    for known, app in state["apps"].items():
        group = app.get("resourceGroup", options.resource_group)
        if known.lower() == wanted.lower() and group.lower() == options.resource_group.lower():
            app_state: dict[str, Any] = app
            return app_state
    raise _not_found_error(f"sites/{wanted}", options.resource_group)


def _slot(app: dict[str, Any], options: ParsedOptions, name: str | None) -> dict[str, Any]:
    for known, slot in app["slots"].items():
        if known.lower() == (name or PRODUCTION).lower():
            slot_state: dict[str, Any] = slot
            slot_state.setdefault("settings", {})
            return slot_state
    raise _not_found_error(f"sites/{options.name}/slots/{name}", options.resource_group)


def _sticky(app: dict[str, Any]) -> list[str]:
    """The app's list of slot settings, which all of its slots share."""
    names = list(app.get("sticky", []))
    for slot in app["slots"].values():
        for name, setting in slot.get("settings", {}).items():
            if setting.get("slotSetting") and name not in names:
                names.append(name)
    app["sticky"] = names
    return names


def _list_settings(state: dict[str, Any], options: ParsedOptions) -> Any:
    app = _app(state, options)
    slot, sticky = _slot(app, options, options.slot), _sticky(app)
    # As in `az`, names are compared case-sensitively.
    return [
        {"name": name, "slotSetting": name in sticky, "value": setting["value"]}
        for name, setting in slot["settings"].items()
    ]


def _set_settings(state: dict[str, Any], options: ParsedOptions) -> Any:
    if not options.settings and not options.slot_settings:
        raise AzError("Please provide either --settings or --slot-settings parameter.")
    app = _app(state, options)
    slot, sticky = _slot(app, options, options.slot), _sticky(app)
    for text in [*(options.settings or []), *(options.slot_settings or [])]:
        name, separator, value = text.partition("=")
        if not separator:
            raise AzError(f"Invalid setting format: '{text}'. Expected 'key=value' format or valid JSON.", 2)
        if any(known != name and known.lower() == name.lower() for known in slot["settings"]):
            raise AzError("Operation returned an invalid status 'Conflict'")
        slot["settings"][name] = {"value": value, "slotSetting": False}
        if text in (options.slot_settings or []) and name not in sticky:
            sticky.append(name)
    for any_slot in app["slots"].values():
        for name, setting in any_slot.get("settings", {}).items():
            setting["slotSetting"] = name in sticky
    # As in `az`, the values are hidden, and `slotSetting` is true only if the call set slot settings.
    named = sticky if options.slot_settings else []
    return [{"name": name, "slotSetting": name in named, "value": None} for name in slot["settings"]]


def _show_resource(state: dict[str, Any], options: ParsedOptions) -> Any:
    name = (options.parent or "").removeprefix("sites/")
    if (options.namespace, options.resource_type, options.name) != ("Microsoft.Web", "config", "slotConfigNames"):
        raise _not_found_error(f"{options.parent}/{options.resource_type}/{options.name}", options.resource_group)
    sticky = _sticky(_app(state, options, name))
    return {
        "id": f"{_site_id(options.resource_group, name)}/config/slotConfigNames",
        "name": name,
        "properties": {"appSettingNames": sticky or None, "connectionStringNames": None},
        "resourceGroup": options.resource_group,
        "type": "Microsoft.Web/sites",
    }


def _swap(state: dict[str, Any], options: ParsedOptions) -> None:
    if options.action not in {None, "swap"}:
        raise AzError("The fake does not support swaps with preview.", 2)
    app = _app(state, options)
    source, target = _slot(app, options, options.slot), _slot(app, options, options.target_slot)
    sticky = {name.lower() for name in _sticky(app)}

    def settings_that_stay(settings: dict[str, Any]) -> dict[str, Any]:
        return {name: setting for name, setting in settings.items() if name.lower() in sticky}

    def settings_that_move(settings: dict[str, Any]) -> dict[str, Any]:
        return {name: setting for name, setting in settings.items() if name.lower() not in sticky}

    first, second = source["settings"], target["settings"]
    source["settings"], target["settings"] = (
        settings_that_stay(first) | settings_that_move(second),
        settings_that_stay(second) | settings_that_move(first),
    )
    source["package"], target["package"] = target.get("package"), source.get("package")


def _deploy(state: dict[str, Any], options: ParsedOptions) -> Any:
    if not os.path.isfile(options.src):
        raise AzError(f"'{options.src}' is not a valid local file path or you do not have permissions to access it")
    _slot(_app(state, options), options, options.slot)["package"] = os.path.basename(options.src)
    return {"active": True, "complete": True, "deployer": "Push-Deployer", "provisioningState": "Succeeded"}


def _set_state(to: str) -> Effect:
    def set_state(state: dict[str, Any], options: ParsedOptions) -> None:
        _slot(_app(state, options), options, options.slot)["state"] = to

    return set_state


def _show_app(state: dict[str, Any], options: ParsedOptions) -> Any:
    slot = _slot(_app(state, options), options, options.slot)
    is_slot = options.slot is not None and options.slot.lower() != PRODUCTION
    host = f"{options.name}-{options.slot}" if is_slot else options.name
    return {
        "defaultHostName": f"{host}.azurewebsites.net",
        "id": _site_id(options.resource_group, options.name) + (f"/slots/{options.slot}" if is_slot else ""),
        "kind": "functionapp,linux",
        "name": f"{options.name}/{options.slot}" if is_slot else options.name,
        "resourceGroup": options.resource_group,
        "state": slot.get("state", "Running"),
        "type": "Microsoft.Web/sites/slots" if is_slot else "Microsoft.Web/sites",
    }


def _account(state: dict[str, Any], options: ParsedOptions) -> Any:
    return {
        "environmentName": "AzureCloud",
        "id": options.subscription or SUBSCRIPTION,
        "isDefault": True,
        "name": "stand-in",
        "state": "Enabled",
        "tenantId": SUBSCRIPTION,
        "user": {"name": "pipeline", "type": "servicePrincipal"},
    }


def _login(state: dict[str, Any], options: ParsedOptions) -> Any:
    return [_account(state, options)]


def _site_id(group: str, app: str) -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Web/sites/{app}"


_SITE = "--resource-group/-g! --name/-n!"
_RESOURCE = "--resource-group/-g! --namespace! --parent --resource-type! --name/-n! --api-version"

COMMANDS: dict[str, tuple[str, str, Effect]] = {
    "account show": ("account show", "", _account),
    "login": ("login", "--username/-u --password/-p --tenant/-t --service-principal? --identity?", _login),
    "resource show": ("resource show", _RESOURCE, _show_resource),
}
"""The key of each command's faults, its options, and its effect."""

for _kind in ("functionapp", "webapp"):
    _swaps = f"{_SITE} --slot/-s! --target-slot --action --preserve-vnet"
    _sets = f"{_SITE} --slot/-s --settings+ --slot-settings+"
    COMMANDS |= {
        f"{_kind} config appsettings list": ("appsettings list", f"{_SITE} --slot/-s", _list_settings),
        f"{_kind} config appsettings set": ("appsettings set", _sets, _set_settings),
        f"{_kind} deployment slot swap": ("swap", _swaps, _swap),
        f"{_kind} deployment source config-zip": (
            "config-zip",
            f"{_SITE} --src! --slot/-s --build-remote --timeout/-t",
            _deploy,
        ),
        f"{_kind} start": ("start", f"{_SITE} --slot/-s", _set_state("Running")),
        f"{_kind} stop": ("stop", f"{_SITE} --slot/-s", _set_state("Stopped")),
        f"{_kind} restart": ("restart", f"{_SITE} --slot/-s", _set_state("Running")),
        f"{_kind} show": ("show", f"{_SITE} --slot/-s", _show_app),
    }
