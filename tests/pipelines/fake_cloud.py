"""The Function Apps behind the fake `az`: a JSON file that tests and calls of the program read and change.

The file:

    {"apps": {"shop": {"resourceGroup": "shop-rg", "sticky": ["NAME"], "slots": {
        "production": {"settings": {"TASK_HUB": {"value": "v41", "slotSetting": false}}, "package": "app.zip",
                       "state": "Running"}}}},
     "groups": ["empty-rg"], "extensions": ["durabletask"],
     "schedulers": {"shop-dts": {"resourceGroup": "shop-rg", "taskHubs": ["shop150"], "quota": 5}},
     "topics": {"shop-topic": {"resourceGroup": "state-rg", "endpoint": "https://…", "key": "…", "subscriptions": []}},
     "storageAccounts": {"shopstate": "state-rg"}, "roleAssignments": [["object id", "role", "scope"]],
     "plans": {"ASP-shop": {"resourceGroup": "shop-rg", "tier": "FlexConsumption"}}, "containers": ["account/shop150"],
     "calls": [["functionapp", "show", ...]], "environments": [["SAFE_DEPLOY_SERVER"]], "faults": {"swap": {...}}}

`sticky` is the app's list of slot settings, from which `slotSetting` is shown, as in Azure. `groups` are resource
groups without apps, and `extensions` those of `az`. An app on Flex Consumption names its `plan` and its `container`.

An app may have `rampUpRules`, the traffic rules that production has. `staleReadsAfterChange` is how many reads after a
change still show the rules from before. With `ignoresChanges`, a change succeeds and has no effect. A slot may have a
`defaultHostName` that does not follow from its name."""

# ruff: noqa: PTH100, PTH105, PTH120, PTH123  # importing pathlib takes longer than a whole call
from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys

TYPE_CHECKING = False  # as in `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

PRODUCTION = "production"
HANGING_SUFFIX = ".hanging"
"""The suffix of the file that exists while a call hangs."""
SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
_REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class FakeAzure:
    """The apps and the calls of the fake `az`, as a test sets and reads them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def reset(self, apps: dict[str, Any], schedulers: dict[str, Any] | None = None) -> None:
        """Replace the cloud by one with these apps and schedulers, no calls and no faults.

        A setting may be just its value, instead of `{"value": ..., "slotSetting": false}`."""
        for app in apps.values():
            for slot in app["slots"].values():
                settings = slot.setdefault("settings", {})
                for name, setting in settings.items():
                    if isinstance(setting, str):
                        settings[name] = {"value": setting, "slotSetting": False}
        with locked_cloud(self.path) as state:
            state.clear()
            state.update(empty_cloud(), apps=apps, schedulers=schedulers or {})

    def settings(self, app: str, slot: str = PRODUCTION) -> dict[str, str]:
        """The values of all settings of a slot."""
        settings = self._slot(app, slot)["settings"]
        return {name: setting["value"] for name, setting in settings.items()}

    def package(self, app: str, slot: str = PRODUCTION) -> str | None:
        """The file name of the package in a slot; None if nothing was deployed."""
        package: str | None = self._slot(app, slot).get("package")
        return package

    def is_running(self, app: str, slot: str = PRODUCTION) -> bool:
        """Whether the app runs in this slot, and is not stopped."""
        return bool(self._slot(app, slot).get("state", "Running") == "Running")

    def count_restarts(self, app: str, slot: str = PRODUCTION) -> int:
        """How often a change of settings has restarted the app in this slot."""
        return int(self._slot(app, slot).get("restarts", 0))

    def ramp_up_rules(self, app: str) -> list[dict[str, Any]]:
        """The traffic rules of an app."""
        with locked_cloud(self.path) as state:
            rules: list[dict[str, Any]] = state["apps"][app].get("rampUpRules", [])
        return rules

    def update_app(self, app: str, **members: Any) -> None:
        """Set members of an app, such as `rampUpRules`, without a call of `az`."""
        with locked_cloud(self.path) as state:
            state["apps"][app] |= members

    def update_slot(self, app: str, slot: str, **members: Any) -> None:
        """Set members of a slot, such as `defaultHostName`, without a call of `az`."""
        with locked_cloud(self.path) as state:
            state["apps"][app]["slots"][slot] |= members

    def task_hubs(self, scheduler: str) -> list[str]:
        """The task hubs of a scheduler."""
        with locked_cloud(self.path) as state:
            names: list[str] = state["schedulers"][scheduler]["taskHubs"]
        return names

    def update(self, **members: Any) -> None:
        """Replace members of the cloud, such as `topics`."""
        with locked_cloud(self.path) as state:
            state.update(members)

    def read(self, member: str) -> Any:
        """A member of the cloud, such as `topics`."""
        with locked_cloud(self.path) as state:
            return state[member]

    def set_extensions(self, *names: str) -> None:
        """Let `az` have these extensions and no others."""
        with locked_cloud(self.path) as state:
            state["extensions"] = list(names)

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of every call so far, in the order in which the calls began."""
        with locked_cloud(self.path) as state:
            calls: list[list[str]] = state["calls"]
        return calls

    def count_calls(self, command: str) -> int:
        """The number of calls of a command, by the words that it begins with."""
        words = command.split()
        return sum(call[: len(words)] == words for call in self.calls)

    @property
    def environments(self) -> list[list[str]]:
        """The names of the variables of each call that begin with SAFE_DEPLOY_."""
        with locked_cloud(self.path) as state:
            environments: list[list[str]] = state["environments"]
        return environments

    def set_fault(
        self,
        command: str,
        *,
        exit_code: int | None = 1,
        message: str = "The service is unavailable.",
        takes_effect: bool = False,
        call_count: int | None = None,
        delay_before_seconds: float = 0,
        delay_after_seconds: float = 0,
        output: str | None = None,
        wait_for_file: str | None = None,
        warning: str | None = None,
    ) -> None:
        """Make the next calls of a command fail: its key in `COMMANDS`, or `all` commands except `login`.

        - `exit_code`: the exit code of these calls, which print `message`. With None they succeed.
        - `takes_effect`: the command fails after its effect, and not before it.
        - `call_count`: the number of calls that fail. None stands for all calls until `clear_faults`.
        - `delay_before_seconds`, `delay_after_seconds`: the delays before and after the effect.
        - `output` replaces the printed result, also of a failing call.
        - `wait_for_file`: the effect waits until this file exists.
        - `warning` is printed to stderr, also by a call that succeeds.
        """
        fault: dict[str, Any] = {
            "exit_code": exit_code,
            "message": message,
            "takes_effect": takes_effect,
            "call_count": call_count,
            "delay_before_seconds": delay_before_seconds,
            "delay_after_seconds": delay_after_seconds,
            "output": output,
            "wait_for_file": wait_for_file,
            "warning": warning,
        }
        with locked_cloud(self.path) as state:
            state["faults"][command] = fault

    def hang_at_request(self, number: int, *, after_effect: bool) -> None:
        """Let a request that comes, counted from 1, hang before or after its effect until it is killed.

        Requests are the calls of `az`, and what `count_request` counts."""
        self.path.with_suffix(HANGING_SUFFIX).unlink(missing_ok=True)
        with locked_cloud(self.path) as state:
            state["hang"] = {"requestsUntil": number, "when": "after" if after_effect else "before"}

    def count_request(self) -> str | None:
        """Count a request to the state server. Returns whether it is to hang `before` or `after` its effect."""
        with locked_cloud(self.path) as state:
            return count_down_to_hang(state)

    def is_hanging(self) -> bool:
        """Whether the call of `az` for `hang_at_request` hangs."""
        return self.path.with_suffix(HANGING_SUFFIX).exists()

    def clear_hang(self) -> None:
        """Let no request hang any more."""
        self.path.with_suffix(HANGING_SUFFIX).unlink(missing_ok=True)
        with locked_cloud(self.path) as state:
            state.pop("hang", None)

    def clear_faults(self) -> None:
        """Let all further calls succeed."""
        with locked_cloud(self.path) as state:
            state["faults"] = {}

    def _slot(self, app: str, slot: str) -> dict[str, Any]:
        """What the cloud has stored of a slot."""
        with locked_cloud(self.path) as state:
            slot_state: dict[str, Any] = state["apps"][app]["slots"][slot]
        return slot_state


def install_fake_az(folder: Path, cloud_file: Path) -> None:
    """Write the program `az` into a folder. It keeps its cloud in `cloud_file` and needs no environment variables."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "az"
    # The program starts quickly, because it loads no site packages and the modules have bytecode.
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.append({_REPOSITORY!r})\n"
        "from tests.pipelines import fake_az\n"
        f"raise SystemExit(fake_az.main(sys.argv[1:], {str(cloud_file.resolve())!r}))\n"
    )
    program.chmod(0o755)


def record_call(path: str, arguments: list[str], key: str) -> dict[str, Any]:
    """Record a call of `az`, and return the fault that a test has set for it, or an empty dictionary.

    `key` is the key of the command in `COMMANDS`.
    """
    with locked_cloud(path) as state:
        state["calls"].append(arguments)
        state["environments"].append(sorted(name for name in os.environ if name.startswith("SAFE_DEPLOY_")))
        if hang := count_down_to_hang(state):
            return {"hang": hang}
        for faulty_command in [key] if key == "login" else [key, "all"]:
            fault: dict[str, Any] | None = state["faults"].get(faulty_command)
            if fault is None:
                continue
            remaining_calls = fault.get("call_count")
            if remaining_calls is not None:
                fault["call_count"] = remaining_calls - 1
                if remaining_calls <= 1:
                    del state["faults"][faulty_command]
            return fault
    return {}


def count_down_to_hang(state: dict[str, Any]) -> str | None:
    """Count a request. Returns whether it is the one that hangs, `before` or `after` its effect."""
    hang = state.get("hang")
    if not hang:
        return None
    hang["requestsUntil"] -= 1
    return hang["when"] if hang["requestsUntil"] == 0 else None


def empty_cloud() -> dict[str, Any]:
    """A cloud without resources, calls and faults."""
    return {
        "apps": {},
        "groups": [],
        "schedulers": {},
        "topics": {},
        "storageAccounts": {},
        "roleAssignments": [],
        "extensions": ["durabletask"],
        "calls": [],
        "environments": [],
        "faults": {},
    }


@contextlib.contextmanager
def locked_cloud(path: Path | str) -> Iterator[dict[str, Any]]:
    """The cloud in the file `path`, locked for one caller. The end of the block saves all changes or none."""
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = ""
        with contextlib.suppress(FileNotFoundError), open(path) as file:
            before = file.read()
        state = {**empty_cloud(), **json.loads(before or "{}")}
        yield state
        after = json.dumps(state, indent=2)
        if after != before:
            with open(f"{path}.draft", "w") as draft:
                draft.write(after)
            os.replace(f"{path}.draft", path)
