"""Microsoft's runtime library loads the sample app and runs an activity, as in Azure on Python 3.13."""

from pathlib import Path

import pytest

from tests.durable_app.functions.published_package import ROOT, publish_app, run_python

# The script runs in another process, because an app can be indexed only once and the server's module has the same name.
LOAD_SCRIPT = """
import asyncio, json, sys
from pathlib import Path
sys.path.append("{root}")
import azure_functions_runtime as library
from tests.functions.runtime import protobuf_stubs as protos
from tests.functions.runtime.protobuf_stubs import Message, ParameterBinding, TypedData

async def send_request(kind, message):
    properties = {"protos": protos, "host": "127.0.0.1"}
    response = await getattr(library, kind)(Message(request=Message(**{kind: message}), properties=properties))
    assert response.result.status == 1, response.result.exception.message
    return response

async def main():
    await send_request("worker_init_request", Message(capabilities={}, function_app_directory=str(Path.cwd())))
    metadata = await send_request("functions_metadata_request", Message())
    function_ids = {function.name: function.function_id for function in metadata.function_metadata_results}
    for function_id in function_ids.values():
        await send_request("function_load_request", Message(function_id=function_id))
    charge = {"orderId": "1", "card": "4711", "cents": 5}
    response = await send_request("invocation_request", Message(
        function_id=function_ids["ChargePayment"], invocation_id="1",
        input_data=[ParameterBinding(name="charge", data=TypedData(json=json.dumps(charge)))],
        trigger_metadata={}, trace_context=Message(trace_parent="", trace_state="", attributes={}),
        retry_context=Message(retry_count=0, max_retry_count=0, exception=None)))
    print(len(function_ids), response.return_value.json)

asyncio.run(main())
"""


@pytest.mark.parametrize(("version", "function_count"), [("v1", 17), ("v2", 18)])
def test_the_runtime_library_loads_every_function_and_runs_an_activity(
    tmp_path: Path, version: str, function_count: int
) -> None:
    script = LOAD_SCRIPT.replace("{root}", str(ROOT))
    # The library raises a warning when it decodes the input of an activity.
    done = run_python(script, publish_app(tmp_path / "app"), warnings="default", ORDERS_VERSION=version)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(function_count), '"bd82a28b1f08"']
