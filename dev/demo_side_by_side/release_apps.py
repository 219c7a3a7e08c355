"""The Function Apps of the releases: processes in the place of Azure, each with the engine of its own task hub."""

from collections.abc import Mapping
from typing import Any

from dev.demo.app_processes import DeployedApp, TopicEndpoint, start_app, start_engine
from dev.demo.control_server import ControlCommand
from dev.demo.processes import HOST, Processes
from harness.processes import free_port


class ReleaseApps:
    """Creates and deletes the Function Apps of releases."""

    def __init__(self, processes: Processes, storage: str, topic: TopicEndpoint) -> None:
        self._processes = processes
        self._storage = storage
        self._topic = topic
        self._apps: dict[str, DeployedApp] = {}

    @property
    def commands(self) -> dict[str, ControlCommand]:
        """The commands of `python -m dev.demo_side_by_side.app_command`."""

        def create(body: dict[str, Any]) -> str:
            """Create the Function App that the body describes."""
            return self.create(body["address"], body["code"], body["taskHub"], body["settings"])

        def delete(body: dict[str, Any]) -> str:
            """Delete the Function App at the address in the body."""
            return self.delete(body["address"])

        return {"create": create, "delete": delete}

    @staticmethod
    def choose_address() -> str:
        """The address of an app that does not exist yet."""
        return f"http://{HOST}:{free_port()}"

    def create(self, address: str, code: str, task_hub: str, settings: Mapping[str, str]) -> str:
        """Create a Function App with this version of the code and app settings on a new task hub. Returns what was
        done."""
        if address in self._apps:
            raise ValueError(f"there is a Function App at {address}")
        engine = start_engine(self._processes, task_hub, self._storage, self._topic)
        port = int(address.rpartition(":")[2])
        self._apps[address] = start_app(
            self._processes, "app", code, task_hub, engine=engine, port=port, settings=settings
        )
        return f"Function App at {address}, code {code}, task hub {task_hub}"

    def delete(self, address: str) -> str:
        """Delete a Function App. Its task hub stays in the storage account."""
        app = self._apps.pop(address, None)
        if app is None:
            raise ValueError(f"there is no Function App at {address}")
        self._processes.stop(app.process)
        return f"Function App at {address}"
