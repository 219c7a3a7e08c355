"""A Function App with an orchestrator for each way in which a Python orchestration waits and ends."""

from collections.abc import Generator
from datetime import datetime, timedelta
from typing import Any

import azure.durable_functions as df
import azure.functions as func

GO_EVENT = "go"
WAITING_STATUS = "Waits"
"""The custom status of an instance that waits for the event `go`."""

GENERATION_COUNT = 6

FAR_TIMER_SECONDS = 3600
"""Seconds until a timer that is cancelled before it fires."""

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)

Tasks = Generator[Any, Any, Any]


@app.function_name("Health")
@app.route(route="health", methods=["GET"])
def health(req: func.HttpRequest) -> func.HttpResponse:
    """Answers once the host has started the app."""
    return func.HttpResponse("ok")


@app.function_name("StartInstance")
@app.route(route="start/{name}/{id}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start_instance(req: func.HttpRequest, client: df.DurableOrchestrationClient) -> func.HttpResponse:
    """Starts an instance, and returns its management URLs as the SDK builds them from the request."""
    instance_id = await client.start_new(req.route_params["name"], req.route_params["id"])
    response: func.HttpResponse = client.create_check_status_response(req, instance_id)
    return response


@app.activity_trigger(input_name="word")
def Echo(word: str) -> str:
    """Returns its input, and fails for `bad`."""
    if word == "bad":
        raise ValueError("no")
    return word


@app.entity_trigger(context_name="context")
def Counter(context: df.DurableEntityContext) -> None:
    """An entity that counts its operations."""
    context.set_state(context.get_state(lambda: 0) + 1)


def compute_fire_time(context: df.DurableOrchestrationContext, seconds: float) -> datetime:
    """Return the time that is this number of seconds ahead, by the orchestration's clock."""
    time: datetime = context.current_utc_datetime + timedelta(seconds=seconds)
    return time


def wait_for_event_or_timer(
    context: df.DurableOrchestrationContext, seconds: float = FAR_TIMER_SECONDS, event: str = GO_EVENT
) -> Tasks:
    """Wait for the event or a timer, and return the timer. Call it with `yield from`."""
    context.set_custom_status(WAITING_STATUS)
    timer = context.create_timer(compute_fire_time(context, seconds))
    yield context.task_any([context.wait_for_external_event(event), timer])
    return timer


def register_orchestrator(generator_function: Any) -> Any:
    """Register a generator function of one parameter, `context`, as an orchestrator."""
    return app.orchestration_trigger(context_name="context")(generator_function)


# Orchestrations that cancel no timer


@register_orchestrator
def AtOnce(context: df.DurableOrchestrationContext) -> Tasks:
    """Completes in its first episode."""
    return "done"
    yield  # makes the function a generator, as orchestrators must be


@register_orchestrator
def FailAtOnce(context: df.DurableOrchestrationContext) -> Tasks:
    """Fails in its first episode."""
    raise ValueError("at once")
    yield  # makes the function a generator, as orchestrators must be


@register_orchestrator
def OneActivity(context: df.DurableOrchestrationContext) -> Tasks:
    """Completes after one activity."""
    yield context.call_activity("Echo", "a")


@register_orchestrator
def FailActivity(context: df.DurableOrchestrationContext) -> Tasks:
    """Fails, because its activity fails."""
    yield context.call_activity("Echo", "bad")


@register_orchestrator
def RetriesExhausted(context: df.DurableOrchestrationContext) -> Tasks:
    """Fails after two attempts of its activity."""
    yield context.call_activity_with_retry("Echo", df.RetryOptions(200, 2), "bad")


@register_orchestrator
def AnyOfActivities(context: df.DurableOrchestrationContext) -> Tasks:
    """Completes after the first of two activities."""
    yield context.task_any([context.call_activity("Echo", "a"), context.call_activity("Echo", "b")])


@register_orchestrator
def SubAtOnce(context: df.DurableOrchestrationContext) -> Tasks:
    """Completes after a sub-orchestration."""
    yield context.call_sub_orchestrator("AtOnce", None, f"{context.instance_id}-sub")


@register_orchestrator
def SubFails(context: df.DurableOrchestrationContext) -> Tasks:
    """Fails, because its sub-orchestration fails."""
    yield context.call_sub_orchestrator("FailActivity", None, f"{context.instance_id}-sub")


@register_orchestrator
def TimerOnly(context: df.DurableOrchestrationContext) -> Tasks:
    """Completes after a timer."""
    yield context.create_timer(compute_fire_time(context, 1))


@register_orchestrator
def EventOnly(context: df.DurableOrchestrationContext) -> Tasks:
    """Completes after an event."""
    context.set_custom_status(WAITING_STATUS)
    yield context.wait_for_external_event(GO_EVENT)


@register_orchestrator
def Quiet(context: df.DurableOrchestrationContext) -> Tasks:
    """Waits for an event that is never raised."""
    context.set_custom_status(WAITING_STATUS)
    yield context.wait_for_external_event("never")


@register_orchestrator
def TimerWins(context: df.DurableOrchestrationContext) -> Tasks:
    """The timer fires, and no event arrives."""
    yield from wait_for_event_or_timer(context, 1)


@register_orchestrator
def EventOrTimerNoCancel(context: df.DurableOrchestrationContext) -> Tasks:
    """Ends only when the timer fires, although the event arrives first."""
    yield from wait_for_event_or_timer(context, 12)


# Orchestrations that cancel a timer


@register_orchestrator
def EventOrTimerCancel(context: df.DurableOrchestrationContext) -> Tasks:
    """Cancels its timer in its last step."""
    timer = yield from wait_for_event_or_timer(context)
    timer.cancel()


@register_orchestrator
def EventOrTimerCancelThenFail(context: df.DurableOrchestrationContext) -> Tasks:
    """Cancels its timer and fails in the same step."""
    timer = yield from wait_for_event_or_timer(context)
    timer.cancel()
    raise ValueError("after cancel")


@register_orchestrator
def EventOrTimerCancelThenActivity(context: df.DurableOrchestrationContext) -> Tasks:
    """Cancels its timer, and calls an activity after that."""
    timer = yield from wait_for_event_or_timer(context)
    timer.cancel()
    yield context.call_activity("Echo", "a")


@register_orchestrator
def EventOrTimerCancelThenTimer(context: df.DurableOrchestrationContext) -> Tasks:
    """Cancels its timer, and waits for another timer after that."""
    timer = yield from wait_for_event_or_timer(context)
    timer.cancel()
    yield context.create_timer(compute_fire_time(context, 1))


@register_orchestrator
def EventOrTimerCancelThenSignal(context: df.DurableOrchestrationContext) -> Tasks:
    """Cancels its timer and signals an entity in its last step."""
    timer = yield from wait_for_event_or_timer(context)
    timer.cancel()
    context.signal_entity(df.EntityId("Counter", context.instance_id), "add")


@register_orchestrator
def ActivityThenEventOrTimerCancel(context: df.DurableOrchestrationContext) -> Tasks:
    """Calls an activity, and cancels a timer in its last step."""
    yield context.call_activity("Echo", "a")
    timer = yield from wait_for_event_or_timer(context)
    timer.cancel()


@register_orchestrator
def TwoEventsOrTimersCancel(context: df.DurableOrchestrationContext) -> Tasks:
    """Cancels one timer in the middle, and another in its last step."""
    first = yield from wait_for_event_or_timer(context)
    first.cancel()
    second = yield from wait_for_event_or_timer(context, event="go on")
    second.cancel()


@register_orchestrator
def ActivityOrTimerCancel(context: df.DurableOrchestrationContext) -> Tasks:
    """Cancels its timer in its last step, once the activity has completed."""
    activity, timer = (
        context.call_activity("Echo", "a"),
        context.create_timer(compute_fire_time(context, FAR_TIMER_SECONDS)),
    )
    yield context.task_any([activity, timer])
    timer.cancel()


@register_orchestrator
def CancelThenContinue(context: df.DurableOrchestrationContext) -> Tasks:
    """Ends in its sixth generation. Each generation waits for an event."""
    generation = context.get_input() or 1
    timer = yield from wait_for_event_or_timer(context)
    timer.cancel()
    if generation < GENERATION_COUNT:
        context.continue_as_new(generation + 1)
