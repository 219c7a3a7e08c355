"""Options that several commands share, as value objects, and the decorator that turns their fields into options.

Typer builds options from the parameters of a function. `expand_option_groups` lets a command take a whole group as one
parameter, and shows Typer the fields of the group instead.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from inspect import Parameter
from typing import Any, get_type_hints

from safe_deploy.durations import Seconds
from safe_deploy.options import (
    ActorOption,
    AppOption,
    ForceOption,
    FunctionAppOption,
    IntervalOption,
    KeyOption,
    OutcomeOption,
    OutputFormat,
    OutputOption,
    QuietOption,
    ReasonOption,
    ResourceGroupOption,
    RunUrlOption,
    ServerOption,
    SlotOption,
    StabilizationOption,
    SwapCommandArgument,
    TakeOverOption,
    TaskHubSettingOption,
    TimeoutOption,
    VerificationMode,
    VerifyOption,
)
from safe_deploy.swap_executor import STABILIZATION_SECONDS

DRAIN_TIMEOUT = Seconds(3600)
"""How long a slot or a release may take to drain."""

_INTERVAL = Seconds(30)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """The server, the caller, and the format of the result, for commands that are about no app."""

    server: ServerOption
    key: KeyOption = ""
    output: OutputOption = OutputFormat.TABLE
    quiet: QuietOption = False
    actor: ActorOption = ""
    run_url: RunUrlOption = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonOptions(ServerOptions):
    """The app and its server, the caller, and the format of the result."""

    app: AppOption


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureOptions:
    """The Function App whose slots are read in Azure. Without a resource group they are not read."""

    resource_group: ResourceGroupOption = ""
    function_app: FunctionAppOption = ""
    task_hub_setting: TaskHubSettingOption = "TASK_HUB"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingOptions:
    """How long to wait for Ready, and how to poll. Times are in seconds."""

    timeout: TimeoutOption = DRAIN_TIMEOUT
    interval: IntervalOption = _INTERVAL
    verify: VerifyOption = VerificationMode.CACHED


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideOptions:
    """What staging overrides: the verdict, or another run's deployment."""

    force: ForceOption = False
    take_over: TakeOverOption = False
    reason: ReasonOption = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapOptions:
    """Either the command that swaps the slots, or the outcome of a swap that is made without safe-deploy."""

    command: SwapCommandArgument = None
    outcome: OutcomeOption = None
    stabilization_window: StabilizationOption = STABILIZATION_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSlotOptions:
    """For a rollout into a slot: the slot, its Function App, and how it is swapped at the end.

    An app with releases side by side needs none of them.
    """

    slot: SlotOption = "staging"
    resource_group: ResourceGroupOption = ""
    function_app: FunctionAppOption = ""
    task_hub_setting: TaskHubSettingOption = "TASK_HUB"
    command: SwapCommandArgument = None
    stabilization_window: StabilizationOption = STABILIZATION_SECONDS

    @property
    def azure(self) -> AzureOptions:
        """The options that name the Function App."""
        return AzureOptions(
            resource_group=self.resource_group,
            function_app=self.function_app,
            task_hub_setting=self.task_hub_setting,
        )


def expand_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of a command that is an option group by one parameter for each field of the group."""
    parameters: list[Parameter] = []
    groups: dict[str, Any] = {}
    signature = inspect.signature(command, eval_str=True)
    for parameter in signature.parameters.values():
        group: Any = parameter.annotation
        if is_dataclass(group):
            groups[parameter.name] = group
            parameters += _list_field_parameters(group)
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        """Call the command with one object for each group, built from the options of the group."""
        arguments = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**arguments, **values)

    expanded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def _list_field_parameters(group: Any) -> list[Parameter]:
    """The fields of a group as parameters of a command, with their typer options as annotations."""
    annotations = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=annotations[field.name],
        )
        for field in fields(group)
    ]
