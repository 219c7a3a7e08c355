"""Microsoft's runtime library loads function_app.py and invokes its functions, as in Azure on Python 3.13."""

import importlib
import json
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import function_app
from harness.processes import free_port
from state_api.http.problems import PROBLEM_MEDIA_TYPE
from state_api.settings import STATE_STORAGE, emulator_connection_string
from tests.builders import cloud_event, event
from tests.functions.invocations import ADMIN_KEY, EVENT_GRID_FUNCTION, PROBE_TIMER, ROLLOUT_TIMER, function_url
from tests.functions.runtime import protobuf_stubs as protos
from tests.functions.runtime.protobuf_stubs import Message, ParameterBinding, StatusResult, TypedData

# Imported by name, because mypy runs on a Python version that the library does not support.
runtime_library: Any = importlib.import_module("azure_functions_runtime")

pytestmark = pytest.mark.anyio

SUCCEEDED = StatusResult(status=StatusResult.Success)


class WorkerClient:
    """The host's side of the protocol between the Functions host and the worker."""

    def __init__(self) -> None:
        self.functions: dict[str, Any] = {}

    @staticmethod
    async def _request(kind: str, body: Message) -> Any:
        """Send the worker a request of this kind, such as `invocation_request`; returns its response."""
        request = Message(request=Message(**{kind: body}), properties={"protos": protos, "host": "127.0.0.1"})
        return await getattr(runtime_library, kind)(request)

    async def load_app(self, folder: Path) -> None:
        """Index and load the app in this folder."""
        init = Message(capabilities={}, function_app_directory=str(folder))
        responses = [
            await self._request("worker_init_request", init),
            metadata := await self._request("functions_metadata_request", Message()),
        ]
        for function in metadata.function_metadata_results:
            self.functions[function.name] = function
            responses.append(await self._request("function_load_request", Message(function_id=function.function_id)))
        assert [response.result for response in responses] == [SUCCEEDED] * len(responses)

    async def invoke(self, name: str, argument: str, data: TypedData) -> Any:
        """Invoke a function in the worker, as the Functions host does over gRPC."""
        invocation = Message(
            function_id=self.functions[name].function_id,
            invocation_id=str(uuid.uuid4()),
            input_data=[ParameterBinding(name=argument, data=data)],
            trigger_metadata={},
            trace_context=Message(trace_parent="", trace_state="", attributes={}),
            retry_context=Message(retry_count=0, max_retry_count=0, exception=None),
        )
        return await self._request("invocation_request", invocation)

    async def http(self, name: str, method: str, body: Any = None, **route: str) -> Any:
        """Invoke an HTTP function with this body; returns the HTTP response."""
        data = TypedData(
            http=Message(
                method=method,
                url=function_url(name, route),
                headers={"content-type": "application/json", "x-functions-key": ADMIN_KEY},
                params=route,
                query={},
                body=TypedData() if body is None else TypedData(bytes=json.dumps(body).encode()),
            )
        )
        response = await self.invoke(name, "req", data)
        assert response.result == SUCCEEDED
        return response.return_value.http

    async def deliver(self, event_json: Any) -> StatusResult:
        """Invoke the Event Grid trigger with an event; returns whether the invocation succeeded."""
        response = await self.invoke(EVENT_GRID_FUNCTION, "event", TypedData(json=json.dumps(event_json)))
        result: StatusResult = response.result
        return result


def json_body(http_response: Any) -> Any:
    """The JSON in the response that the worker returned to the host."""
    return json.loads(http_response.body.bytes)


@pytest.fixture
async def worker(
    function_app_settings: None, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[WorkerClient]:
    """A worker with its own copy of function_app, because an app can be indexed only once."""
    monkeypatch.delitem(sys.modules, "function_app")
    client = WorkerClient()
    await client.load_app(Path(function_app.__file__).parent)
    yield client
    await sys.modules["function_app"].server().close()


async def test_the_worker_reports_every_function_to_the_host(worker: WorkerClient) -> None:
    operations = [name for name, *_ in function_app.OPERATIONS]
    assert list(worker.functions) == [*operations, EVENT_GRID_FUNCTION, PROBE_TIMER, ROLLOUT_TIMER]
    triggers = {name: json.loads(function.raw_bindings[0]) for name, function in worker.functions.items()}
    assert triggers["PostEvents"] == {
        "direction": "IN",
        "type": "httpTrigger",
        "name": "req",
        "methods": ["POST", "OPTIONS"],
        "authLevel": "ANONYMOUS",
        "route": "events",
    }
    assert triggers[EVENT_GRID_FUNCTION] == {"direction": "IN", "type": "eventGridTrigger", "name": "event"}


async def test_http_functions_respond_through_the_worker(worker: WorkerClient, hub: str, app: str) -> None:
    response = await worker.http("PostEvents", "POST", [event(hub)])
    assert (response.status_code, response.headers["content-type"]) == ("200", "application/json")
    assert json_body(response) == {"recorded": 1, "unchanged": 0, "quarantined": 0}
    assert json_body(await worker.http("GetTaskHub", "GET", hub=hub))["activeCount"] == 1
    problem = await worker.http("GetStagingStatus", "GET", app=app)
    assert (problem.status_code, problem.headers["content-type"]) == ("404", PROBLEM_MEDIA_TYPE)
    assert json_body(problem)["code"] == "AppNotFound"


async def test_the_trigger_records_both_schemas_through_the_worker_with_all_digits_of_the_time(
    worker: WorkerClient, hub: str
) -> None:
    time = "2026-11-20T09:30:00.1234567Z"
    assert await worker.deliver(event(hub, "grid", time=time)) == SUCCEEDED
    assert await worker.deliver(cloud_event(hub, "cloud") | {"time": time}) == SUCCEEDED
    instances = json_body(await worker.http("ListInstances", "GET", hub=hub))["instances"]
    assert {instance["instanceId"]: instance["startedAt"] for instance in instances} == {"grid": time, "cloud": time}


@pytest.mark.parametrize("invalid_members", [{"eventTime": "yesterday"}, {"data": None}, {"eventType": "Other"}])
async def test_an_event_that_cannot_be_parsed_does_not_fail_the_invocation(
    worker: WorkerClient, hub: str, invalid_members: dict[str, Any]
) -> None:
    assert await worker.deliver(event(hub) | invalid_members) == SUCCEEDED


async def test_the_invocation_fails_without_storage_so_that_event_grid_delivers_the_event_again(
    worker: WorkerClient, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATE_STORAGE, emulator_connection_string("127.0.0.1", free_port()))
    result = await worker.deliver(event(hub))
    assert result.status == StatusResult.Failure
    assert result.exception.message.startswith("StorageUnavailable: ")
