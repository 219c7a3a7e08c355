"""Runs orchestrators without a host, as Microsoft documents it for tests: results of tasks are sent to the generator.

The context is that of the library. Activities, entities and sub-orchestrations are those of the app, unless a test
replaces them."""

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
    """The app's Python function, without the decorators of the library."""
    function = app_functions(version)[name].get_user_function()
    for attribute in ("orchestrator_function", "client_function"):
        function = getattr(function, attribute, function)
    return function


def run_entity_operation(state: Any, operation: str, input_value: Any = None) -> tuple[Any, Any]:
    """Run an operation on a stock entity with this state, and return the new state and the result of the operation.

    Raises RuntimeError with the error of the entity.
    """
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
    """What an orchestration has done.

    - `result` or `error`: what it returned or raised.
    - `calls`: the names of its activities and sub-orchestrations, and `timer` for each timer, in order.
    - `signals`: entity id, operation and input of each signal to an entity.
    - `continued_with`: the input of continue-as-new.
    """

    result: Any = None
    error: Exception | None = None
    calls: list[str] = field(default_factory=list)
    signals: list[tuple[str, str, Any]] = field(default_factory=list)
    continued_with: Any = None
    elapsed_seconds: float = 0


class OrchestratorReplay:
    """Runs an orchestration of one version of the app.

    - `events`: the data of each external event, by name. Other events never arrive.
    - `activities`: functions that replace activities of the app, by name.
    - `stock_levels`: the pieces of each item in stock. The orchestration changes them.
    """

    def __init__(
        self,
        version: str = "v2",
        events: Mapping[str, Any] | None = None,
        activities: Mapping[str, Any] | None = None,
        stock_levels: dict[str, int] | None = None,
    ) -> None:
        """Prepare a replay. Events and activities answer what the orchestrator waits for, by their names."""
        self.version = version
        self.events = dict(events or {})
        self.activities = dict(activities or {})
        self.stock_levels: dict[str, int] = stock_levels or {}
        self.calls: list[str] = []

    def run(self, name: str, input_value: Any, instance_id: str = "order-1") -> ReplayResult:
        """Run the orchestrator `name` to its end."""
        first_event = {
            "EventType": _ORCHESTRATOR_STARTED,
            "EventId": -1,
            "IsPlayed": False,
            "Timestamp": START_TIME.isoformat(),
        }
        context = DurableOrchestrationContext(
            [first_event],
            instance_id,
            isReplaying=False,
            parentInstanceId="",
            input=json.dumps(input_value),
            upperSchemaVersion=ReplaySchema.V3.value,
        )
        generator = user_function(name, self.version)(context)
        replay_result = ReplayResult(calls=self.calls)
        try:
            task = next(generator)
            while True:
                self._complete_task(context, task)
                has_failed = task.state is TaskState.FAILED
                task = generator.throw(task.result) if has_failed else generator.send(task.result)
        except StopIteration as end:
            replay_result.result = end.value
        except Exception as error:  # noqa: BLE001  # any exception makes the orchestration fail
            replay_result.error = error
        for action in context._actions[0]:
            if isinstance(action, SignalEntityAction):
                replay_result.signals.append((action.instance_id, action.operation, json.loads(action.input_)))
            if isinstance(action, ContinueAsNewAction):
                replay_result.continued_with = json.loads(action.input_)
        replay_result.elapsed_seconds = (context.current_utc_datetime - START_TIME).total_seconds()
        return replay_result

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
        """Complete a task that consists of one action."""
        match action:
            case CallActivityAction():
                self._run_activity(task, action.function_name, json.loads(action.input_))
            case CallSubOrchestratorAction():
                self.calls.append(action.function_name)
                child = self.run(action.function_name, json.loads(action._input), action.instance_id)
                task.set_value(is_error=child.error is not None, value=child.error or child.result)
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
                raise AssertionError(f"this replay does not support {other}")

    def _run_activity(self, task: TaskBase, name: str, input_value: Any) -> None:
        """Run an activity, and complete the task with its result or error."""
        self.calls.append(name)
        activity = self.activities.get(name, user_function(name, self.version))
        try:
            # The host passes results as JSON.
            result = json.loads(json.dumps(activity(input_value)))
        except Exception as error:  # noqa: BLE001  # the host catches every exception of an activity
            task.set_value(is_error=True, value=error)
        else:
            task.set_value(is_error=False, value=result)
