"""Microsoft's own runtime library loads the sample app and runs an activity, as in Azure on Python 3.13."""

from pathlib import Path

import pytest

from tests.durable_app.functions.published_package import ROOT, publish, run_python

# A process of its own: the server's function_app has the same name, and an app can be indexed only once.
LOAD_SCRIPT = """
import asyncio, json, sys
from pathlib import Path
sys.path.append("{root}")
import azure_functions_runtime as library
from tests.functions.runtime import protobuf_stubs as protos
from tests.functions.runtime.protobuf_stubs import Message, ParameterBinding, TypedData

async def ask(kind, content):
    properties = {"protos": protos, "host": "127.0.0.1"}
    answer = await getattr(library, kind)(Message(request=Message(**{kind: content}), properties=properties))
    assert answer.result.status == 1, answer.result.exception.message
    return answer

async def main():
    await ask("worker_init_request", Message(capabilities={}, function_app_directory=str(Path.cwd())))
    metadata = await ask("functions_metadata_request", Message())
    found = {one.name: one.function_id for one in metadata.function_metadata_results}
    for function_id in found.values():
        await ask("function_load_request", Message(function_id=function_id))
    charge = {"orderId": "1", "card": "4711", "cents": 5}
    answer = await ask("invocation_request", Message(
        function_id=found["ChargePayment"], invocation_id="1",
        input_data=[ParameterBinding(name="charge", data=TypedData(json=json.dumps(charge)))],
        trigger_metadata={}, trace_context=Message(trace_parent="", trace_state="", attributes={}),
        retry_context=Message(retry_count=0, max_retry_count=0, exception=None)))
    print(len(found), answer.return_value.json)

asyncio.run(main())
"""


@pytest.mark.parametrize(("version", "functions"), [("v1", 17), ("v2", 18)])
def test_it_loads_every_function_and_runs_an_activity(tmp_path: Path, version: str, functions: int) -> None:
    script = LOAD_SCRIPT.replace("{root}", str(ROOT))
    # The library itself warns when it decodes an activity's input.
    done = run_python(script, publish(tmp_path / "app"), warnings="default", ORDERS_VERSION=version)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(functions), '"bd82a28b1f08"']
