"""The operations of a state server that administrators call: what deletes, waives or purges, and what they look at
before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from safe_deploy.client import Json, StateServerClient, task_hub_path
from safe_deploy.errors import ConflictError


@dataclass(frozen=True, slots=True)
class Administration:
    """The operations on the server of a client, and on its app. Raises the errors of `errors.py`."""

    server: StateServerClient

    def delete_app(self, *, etag: str) -> Json:
        """Delete the app on the server if it still has `etag`. Raises ConflictError if it has not drained."""
        return self.server.request_json("DELETE", self.server.app_path, headers={"If-Match": etag})

    def delete_waiver(self, query: Mapping[str, Any]) -> Json:
        """Remove a waiver. `query` has taskHub, and instanceId or unexplainedMessages. Returns the app."""
        return self.server.request_json("DELETE", f"{self.server.app_path}/waivers", query=query)

    def forget_router(self, router: str, *, etag: str) -> Json:
        """Forget what a router has acknowledged, if the app on the server still has `etag`. Returns the app.

        The condition is for a request that is sent again because its response was lost: it must not forget a router
        that has come back since. Raises ConflictError if the app was changed and the router is known."""
        path = f"{self.server.app_path}/routers/{quote(router, safe='')}"
        try:
            return self.server.request_json("DELETE", path, headers={"If-Match": etag})
        except ConflictError as error:
            if error.problem_code != "PreconditionFailed":
                raise
            if any(known["router"] == router for known in self.server.list_releases()["routers"]):
                raise ConflictError(
                    f"app {self.server.app} was changed meanwhile. Router {router} was not forgotten, or it was and "
                    "has asked again",
                    error.problem,
                ) from error
        return self.server.get_app()[0]

    def delete_task_hub(self, task_hub: str) -> Json:
        """Remove the records of a task hub that no app has claimed. Takes about 12 seconds."""
        return self.server.request_json("DELETE", task_hub_path(task_hub))

    def get_versions(self, task_hub: str, *, verify: str) -> Json:
        """The active instances of a task hub by orchestration version. `verify` is cached or fresh."""
        return self.server.request_json("GET", f"{task_hub_path(task_hub)}/versions", query={"verify": verify})

    def list_quarantine(self, top: int, token: str | None = None) -> Json:
        """A page of at most `top` events in quarantine. `token` is the `continuationToken` of the previous page."""
        return self.server.request_json("GET", "/api/quarantine", query={"top": top, "continuationToken": token})

    def purge_quarantine(self, before: str) -> Json:
        """Remove events that were received before a time. Repeat it while `hasMore` of the response is true."""
        return self.server.request_json("DELETE", "/api/quarantine", query={"before": before})
