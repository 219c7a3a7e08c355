"""Processes of the sample app: an engine for each task hub, and the app itself, a version of its code on a task hub."""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from dev.demo.processes import HOST, LoggedProcess, Processes
from harness.processes import free_port, wait_until

# Orders take less than a second, so that the demo is short.
_SHORT_DURATIONS = {"PACKING_SECONDS": "0.2", "PAYMENT_RETRY_MILLISECONDS": "50"}


@dataclass(frozen=True, slots=True)
class TopicEndpoint:
    """The endpoint that lifecycle events are published to, and its key."""

    endpoint: str
    key: str


@dataclass(frozen=True, slots=True)
class DeployedApp:
    """A version of the code on a task hub, in a process that listens at `url`."""

    app_version: str
    task_hub: str
    url: str
    process: LoggedProcess


def start_engine(processes: Processes, task_hub: str, storage: str, topic: TopicEndpoint | None) -> str:
    """Start the engine of a task hub, which runs until the end of the demo. Returns its address.

    Without a `topic`, it publishes no lifecycle events. It may not listen yet: an app waits for it."""
    port = free_port()
    options = ["--task-hub", task_hub, "--port", str(port), "--storage", storage]
    key = {}
    if topic is not None:
        options += ["--topic-endpoint", topic.endpoint, "--publish-retry-seconds", "0.01"]
        key = {"LIFECYCLE_TOPIC_KEY": topic.key}
    processes.start(f"engine-{task_hub}", "durable_app.local.engine", *options, **key)
    return f"{HOST}:{port}"


def start_app(
    processes: Processes,
    name: str,
    app_version: str,
    task_hub: str,
    *,
    engine: str,
    port: int,
    settings: Mapping[str, str] | None = None,
) -> DeployedApp:
    """Start the app with more app settings, and wait until it responds. Raises RuntimeError if its process ends."""
    options = ["--task-hub", task_hub, "--version", app_version, "--port", str(port), "--engine", engine]
    variables = _SHORT_DURATIONS | dict(settings or {})
    process = processes.start(f"{name}-{app_version}-{task_hub}", "durable_app.local", *options, **variables)
    app = DeployedApp(app_version, task_hub, f"http://{HOST}:{port}", process)
    with httpx.Client(timeout=30) as client:
        wait_until(lambda: _is_healthy(client, app) or process.popen.poll() is not None, f"{name} responds")
    if process.popen.poll() is not None:
        raise RuntimeError(f"the process of {name} ended:\n{process.read_output()}")
    return app


def _is_healthy(client: httpx.Client, app: DeployedApp) -> bool:
    """Whether a process answers with the code and the task hub that were deployed."""
    try:
        about = client.get(f"{app.url}/api/about")
    except httpx.TransportError:
        return False
    return bool(about.json() == {"version": app.app_version, "taskHub": app.task_hub})
