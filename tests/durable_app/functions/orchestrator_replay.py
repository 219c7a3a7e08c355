"""Runs orchestrators as Microsoft documents it for tests: drive the generator and send results to its tasks.

The context is the library's own. Activities, entities and sub-orchestrations are the app's own unless a test replaces
them."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import azure.durable_functions as df
from azure.durable_functions.models import DurableOrchestrationContext, TaskBase
from azure.durable_functions.models.actions.CallActivityAction import CallActivityAction
from azure.durable_functions.models.actions.CallEntityAction import CallEntityAction
from azure.durable_functions.models.actions.CallSubOrchestratorAction import CallSubOrchestratorAction
from azure.durable_functions.models.actions.ContinueAsNewAction import ContinueAsNewAction
from azure.durable_functions.models.actions.CreateTimerAction import CreateTimerAction
from azure.durable_functions.models.actions.SignalEntityAction import SignalEntityAction
from azure.durable_functions.models.actions.WaitForExternalEventAction import WaitForExternalEventAction
from azure.durable_functions.models.ReplaySchema import ReplaySchema
from azure.durable_functions.models.Task import RetryAbleTask, TaskState, WhenAllTask, WhenAnyTask

from durable_app.orders import api, monitor, payment, pricing, shipping, stock, v1, v2

START_TIME = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
_ORCHESTRATOR_STARTED = 12


@functools.cache
def app_functions(version: str) -> dict[str, Any]:
    """The app's functions by name, as function_app.py registers them."""
    app = df.DFApp()
    for module in (api, monitor, payment, pricing, shipping, stock, {"v1": v1, "v2": v2}[version]):
        app.register_functions(module.blueprint)
    return {str(function.get_function_name()): function for function in app.get_functions()}


def user_function(name: str, version: str = "v2") -> Any:
    """The app's Python function, without the library's decorators."""
    function = app_functions(version)[name].get_user_function()
    for wrapped in ("orchestrator_function", "client_function"):
        function = getattr(function, wrapped, function)
    return function


def run_entity_operation(state: Any, operation: str, input_value: Any = None) -> tuple[Any, Any]:
    """Run one operation on a stock entity, through its handler. Returns its state and the result.

    Raises RuntimeError with the entity's error."""
    batch = {
        "self": {"name": "stock", "key": "apple"},
        "exists": state is not None,
        "state": None if state is None else json.dumps(state),
        "batch": [{"name": operation, "input": json.dumps(json.dumps(input_value))}],
    }
    answer = json.loads(app_functions("v2")["Stock"].get_user_function()(json.dumps(batch)))
    (result,) = answer["results"]
    if result["isError"]:
        raise RuntimeError(json.loads(result["result"]))
    return json.loads(answer["entityState"]), json.loads(result["result"])


@dataclass
class ReplayResult:
    """The result of an orchestration, and the activities that it called."""

    result: Any = None
    error: Exception | None = None
    calls: list[str] = field(default_factory=list)
    signals: list[tuple[str, str, Any]] = field(default_factory=list)
    continued_with: Any = None
    elapsed_seconds: float = 0


class OrchestratorReplay:
    """The environment of one orchestration: its version, its external events, replaced activities, and the stock."""

    def __init__(
        self,
        version: str = "v2",
        events: Mapping[str, Any] | None = None,
        activities: Mapping[str, Any] | None = None,
        stock_levels: dict[str, int] | None = None,
    ) -> None:
        self.version = version
        self.events = dict(events or {})
        self.activities = dict(activities or {})
        self.stock_levels: dict[str, int] = stock_levels or {}
        self.calls: list[str] = []

    def run(self, name: str, input_value: Any, instance_id: str = "order-1") -> ReplayResult:
        started = {
            "EventType": _ORCHESTRATOR_STARTED,
            "EventId": -1,
            "IsPlayed": False,
            "Timestamp": START_TIME.isoformat(),
        }
        context = DurableOrchestrationContext(
            [started],
            instance_id,
            isReplaying=False,
            parentInstanceId="",
            input=json.dumps(input_value),
            upperSchemaVersion=ReplaySchema.V3.value,
        )
        generator = user_function(name, self.version)(context)
        played = ReplayResult(calls=self.calls)
        try:
            task = next(generator)
            while True:
                self._complete_task(context, task)
                failed = task.state is TaskState.FAILED
                task = generator.throw(task.result) if failed else generator.send(task.result)
        except StopIteration as end:
            played.result = end.value
        except Exception as error:  # noqa: BLE001  # any exception makes the orchestration fail
            played.error = error
        for action in context._actions[0]:
            if isinstance(action, SignalEntityAction):
                played.signals.append((action.instance_id, action.operation, json.loads(action.input_)))
            if isinstance(action, ContinueAsNewAction):
                played.continued_with = json.loads(action.input_)
        played.elapsed_seconds = (context.current_utc_datetime - START_TIME).total_seconds()
        return played

    def _complete_task(self, context: DurableOrchestrationContext, task: TaskBase) -> None:
        """Complete a task, as the extension does when a result arrives."""
        if isinstance(task, RetryAbleTask):
            action = task.children[0].action_repr
            while not task.is_completed:
                (pending,) = task.pending_tasks
                if task.is_waiting_on_timer:
                    pending.set_value(is_error=False, value=None)
                else:
                    self._run_activity(pending, action.function_name, json.loads(action.input_))
        elif isinstance(task, WhenAllTask):
            for child in task.children:
                self._complete_task(context, child)
        elif isinstance(task, WhenAnyTask):
            event_tasks = [
                child for child in task.children if getattr(child.action_repr, "external_event_name", "") in self.events
            ]
            timers = [child for child in task.children if isinstance(child.action_repr, CreateTimerAction)]
            self._complete_task(context, (event_tasks or timers)[0])
        else:
            self._complete_single_task(context, task, task.action_repr)

    def _complete_single_task(self, context: DurableOrchestrationContext, task: TaskBase, action: Any) -> None:
        match action:
            case CallActivityAction():
                self._run_activity(task, action.function_name, json.loads(action.input_))
            case CallSubOrchestratorAction():
                self.calls.append(action.function_name)
                inner = self.run(action.function_name, json.loads(action._input), action.instance_id)
                task.set_value(is_error=inner.error is not None, value=inner.error or inner.result)
            case CallEntityAction():
                item = action.instance_id.rpartition("@")[2]
                self.stock_levels[item], result = run_entity_operation(self.stock_levels.get(item), action.operation)
                task.set_value(is_error=False, value=result)
            case WaitForExternalEventAction():
                task.set_value(is_error=False, value=self.events[action.external_event_name])
            case CreateTimerAction():
                self.calls.append("timer")
                context.current_utc_datetime = action.fire_at
                task.set_value(is_error=False, value=None)
            case other:
                raise AssertionError(f"the play does not know {other}")

    def _run_activity(self, task: TaskBase, name: str, input_value: Any) -> None:
        self.calls.append(name)
        activity = self.activities.get(name, user_function(name, self.version))
        try:
            # Encode and decode, as the host does.
            result = json.loads(json.dumps(activity(input_value)))
        except Exception as error:  # noqa: BLE001  # the host catches every exception of an activity
            task.set_value(is_error=True, value=error)
        else:
            task.set_value(is_error=False, value=result)
