"""A slot of the development host: `python -m durable_app.local`.

A slot is a process with the app's HTTP functions and a worker. It runs one version of the code on one task hub. It can
be stopped and replaced by another version while the task hub's engine keeps running."""

import argparse
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import uvicorn
from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2_grpc as stubs
from durabletask.worker import TaskHubGrpcWorker
from google.protobuf.empty_pb2 import Empty
from starlette.applications import Starlette

from .durable_client import DurableClient
from .functions import build_routes, load_app_functions, register_functions
from .management_api import build_management_routes
from .task_hub_engine import TASK_HUB_KEY

log = logging.getLogger("durable_app.local.slot")

HOST = "127.0.0.1"
_CONNECT_SECONDS = 20
_GRACE_SECONDS = 5


def build_application(engine: str, task_hub: str) -> Starlette:
    """Build an application with the slot's HTTP functions and its management API.

    A worker runs from its start-up to its shutdown."""
    metadata = [(TASK_HUB_KEY, task_hub)]
    functions = load_app_functions()
    grpc_client = AsyncTaskHubGrpcClient(host_address=engine, metadata=metadata, logger=log, emit_trace_spans=False)

    @asynccontextmanager
    async def run_worker(_: Starlette) -> AsyncIterator[None]:
        """Run the worker that executes the app's functions for as long as the HTTP functions are served."""
        worker = TaskHubGrpcWorker(host_address=engine, metadata=metadata, logger=log, emit_trace_spans=False)
        register_functions(worker, functions)
        worker.start()
        yield
        # The worker logs the end of its stream as an error, also when it is stopped on purpose.
        log.setLevel(logging.CRITICAL)
        worker.stop()
        await grpc_client.close()

    routes = build_routes(functions, DurableClient(grpc_client)) + build_management_routes(task_hub, grpc_client)
    return Starlette(routes=routes, lifespan=run_worker)


def check_engine(engine: str, task_hub: str) -> str | None:
    """Check that this address is the engine of this task hub. Returns what is wrong, or None."""
    with grpc.insecure_channel(engine) as channel:
        try:
            stubs.TaskHubSidecarServiceStub(channel).Hello(
                Empty(), metadata=[(TASK_HUB_KEY, task_hub)], timeout=_CONNECT_SECONDS, wait_for_ready=True
            )
        except grpc.RpcError as error:
            is_unreachable = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            cause = "nothing answers there" if is_unreachable else error.details()
            return f"the engine at {engine} does not serve the task hub {task_hub}: {cause}"
    return None


def build_parser() -> argparse.ArgumentParser:
    """The command line of a slot."""
    parser = argparse.ArgumentParser(
        prog="python -m durable_app.local", description="Run the sample app as a slot does. For development only."
    )
    parser.add_argument("--task-hub", required=True, help="the task hub of this slot, which the engine must serve")
    parser.add_argument("--version", choices=("v1", "v2"), required=True, help="which code is in the slot")
    parser.add_argument("--port", type=int, required=True, help="where the HTTP functions listen, on loopback")
    parser.add_argument("--engine", required=True, help="where the engine listens, such as 127.0.0.1:4001")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one slot of the sample app until the process is stopped. Returns the exit code."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # App settings are environment variables in Azure. function_app.py and the HTTP functions read them.
    os.environ["ORDERS_VERSION"] = options.version
    os.environ["TASK_HUB"] = options.task_hub
    if (problem := check_engine(options.engine, options.task_hub)) is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(f"slot: {options.version} on task hub {options.task_hub} at http://{HOST}:{options.port}", flush=True)
    uvicorn.run(
        build_application(options.engine, options.task_hub),
        host=HOST,
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
