"""Task hubs on a scheduler that the server has on record as the release's own. No other task hub is deleted."""

from collections.abc import Callable

from safe_deploy.addresses import normalize_address
from safe_deploy.client import Json, StateServerClient
from safe_deploy.scheduler_task_hubs import SchedulerTaskHubs


class RecordedTaskHubs:
    """Deletes task hubs of a scheduler, if the server has on record that they were new there when they were
    registered."""

    def __init__(self, server: StateServerClient, task_hubs: SchedulerTaskHubs, *, warn: Callable[[str], None]) -> None:
        self._server = server
        self._task_hubs = task_hubs
        self._warn = warn

    def delete(self, task_hub: str) -> None:
        """Delete the task hub, unless it is gone. Without the record it stays, because others may have created it.
        Raises AzureUnavailable."""
        doubt = self._describe_missing_proof(self._server.get_task_hub(task_hub)["proof"])
        if doubt is None:
            self._task_hubs.delete(task_hub)
            return
        self._warn(
            f"task hub {task_hub} stays on the scheduler: {doubt}. If it belongs to the release, delete it by hand"
        )

    def _describe_missing_proof(self, proof: Json | None) -> str | None:
        """Why the record does not show that the scheduler's task hub is the release's own. None if it does."""
        if proof is None or proof["basis"] != "New":
            return "the server has no record that it was new when its release was registered"
        endpoint = self._task_hubs.read_endpoint()
        if endpoint is None:
            return "az does not show the endpoint of the scheduler"
        if normalize_address(endpoint) in map(normalize_address, proof["addresses"]):
            return None
        return (
            f"the server has on record that it was new at {', '.join(proof['addresses'])}, and the scheduler has the "
            f"endpoint {endpoint}"
        )
