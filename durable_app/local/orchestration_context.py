"""The orchestration context of `azure-functions-durable`, implemented with that of `durabletask`.

It has only the methods that the sample app uses."""

from datetime import datetime, timedelta
from typing import Any

import azure.durable_functions as df
from durabletask.entities import EntityInstanceId
from durabletask.task import OrchestrationContext, RetryPolicy, Task, when_all, when_any


class DurableContext:
    """The context of one replay.

    Tasks are passed through unchanged: generators of both libraries yield them and are sent their results, and both
    kinds have `result` and `cancel`."""

    def __init__(self, inner_context: OrchestrationContext, orchestration_input: Any) -> None:
        """Wrap the context of the durabletask library, which the orchestrators of the app do not know."""
        self._inner_context = inner_context
        self._orchestration_input = orchestration_input

    @property
    def instance_id(self) -> str:
        return self._inner_context.instance_id

    @property
    def current_utc_datetime(self) -> datetime:
        return self._inner_context.current_utc_datetime

    def get_input(self, expected_type: type | None = None) -> Any:
        """As `DurableOrchestrationContext.get_input`: the input, decoded already, so that the expected type is not
        needed."""
        return self._orchestration_input

    def set_custom_status(self, status: Any) -> None:
        """As `DurableOrchestrationContext.set_custom_status`."""
        self._inner_context.set_custom_status(status)

    def call_activity(self, name: str, input_: Any = None, expected_type: type | None = None) -> Task[Any]:
        """As `DurableOrchestrationContext.call_activity`: run an activity, and return its result."""
        return self._inner_context.call_activity(name, input=input_, return_type=expected_type)

    def call_activity_with_retry(
        self, name: str, retry_options: df.RetryOptions, input_: Any = None, expected_type: type | None = None
    ) -> Task[Any]:
        """As `DurableOrchestrationContext.call_activity_with_retry`: run an activity, and repeat it after a failure at
        a constant interval."""
        policy = RetryPolicy(
            first_retry_interval=timedelta(milliseconds=retry_options.first_retry_interval_in_milliseconds),
            max_number_of_attempts=retry_options.max_number_of_attempts,
        )
        return self._inner_context.call_activity(name, input=input_, retry_policy=policy, return_type=expected_type)

    def call_sub_orchestrator(self, name: str, input_: Any = None, instance_id: str | None = None) -> Task[Any]:
        """As `DurableOrchestrationContext.call_sub_orchestrator`: run another orchestration, and return its output."""
        return self._inner_context.call_sub_orchestrator(name, input=input_, instance_id=instance_id)

    def call_entity(
        self, entity_id: df.EntityId, operation: str, input_: Any = None, expected_type: type | None = None
    ) -> Task[Any]:
        """As `DurableOrchestrationContext.call_entity`: run an operation of an entity, and return its result."""
        return self._inner_context.call_entity(
            to_entity_instance_id(entity_id), operation, input_, return_type=expected_type
        )

    def signal_entity(self, entity_id: df.EntityId, operation: str, input_: Any = None) -> None:
        """As `DurableOrchestrationContext.signal_entity`: run an operation of an entity without waiting for it."""
        self._inner_context.signal_entity(to_entity_instance_id(entity_id), operation, input_)

    def create_timer(self, fire_at: datetime) -> Task[None]:
        """As `DurableOrchestrationContext.create_timer`: wait until this time."""
        return self._inner_context.create_timer(fire_at)

    def wait_for_external_event(self, name: str, expected_type: type | None = None) -> Task[Any]:
        """As `DurableOrchestrationContext.wait_for_external_event`: wait for an event, and return its data."""
        return self._inner_context.wait_for_external_event(name, data_type=expected_type)

    def task_all(self, tasks: list[Task[Any]]) -> Task[list[Any]]:
        """As `DurableOrchestrationContext.task_all`: wait for all of these tasks."""
        return when_all(tasks)

    def task_any(self, tasks: list[Task[Any]]) -> Task[Task[Any]]:
        """As `DurableOrchestrationContext.task_any`: wait for the first of these tasks."""
        return when_any(tasks)

    def continue_as_new(self, input_: Any) -> None:
        """As `DurableOrchestrationContext.continue_as_new`: start again with this input after the orchestrator has
        returned."""
        self._inner_context.continue_as_new(input_)


def to_entity_instance_id(entity_id: df.EntityId) -> EntityInstanceId:
    """The entity id in the type of the durabletask library."""
    return EntityInstanceId(entity_id.name, entity_id.key)
