"""A durable app in the fake Azure whose events reach the real server: its slots, its topic, and the server's Function
App. Tests break single parts of it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.durable_app.host_processes import KEY
from tests.pipelines.fake_az_event_grid import build_subscription
from tests.pipelines.fake_az_sites import site_id
from tests.pipelines.fake_cloud import FakeAzure
from tests.platform.event_grid import EventSubscription, run_event_grid
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.deployment_fixture import RESOURCE_GROUP
from tests.safe_deploy.doctor_runner import CheckResults, run_doctor
from tests.safe_deploy.processes import KEYS

SERVER_GROUP = "state-rg"
SERVER_APP = "shop-state"
TOPIC = "shop-topic"
SITE_NAMES = "WEBSITE_ADD_SITENAME_BINDINGS_IN_APPHOST_CONFIG"
SERVER_IDENTITY = {"clientId": "server-client", "principalId": "server-principal"}


@dataclass(frozen=True)
class GuardedApp:
    """The app on the server, its Azure, and the topic that delivers to the server."""

    client: AppClient
    azure: FakeAzure
    grid: EventSubscription

    @property
    def settings(self) -> dict[str, str]:
        """The app settings of a slot that is set up completely, without the task hub."""
        return {"LIFECYCLE_TOPIC_ENDPOINT": self.grid.topic.url, "LIFECYCLE_TOPIC_KEY": KEY, SITE_NAMES: "1"}

    def set_up(
        self,
        production: dict[str, str] | None = None,
        staging: dict[str, str] | None = None,
        *,
        sticky: tuple[str, ...] = (),
        subscriptions: list[dict[str, Any]] | None = None,
    ) -> None:
        """Replace the fake Azure by a complete set-up, with these settings of the slots in place of its own."""
        slots = {"production": self.settings | {"TASK_HUB": self.client.hub}, "staging": self.settings}
        if production is not None:
            slots["production"] = production
        if staging is not None:
            slots["staging"] = staging
        server_settings = {
            "STATE_TASKHUBS_SHOP__accountName": "shopdurable",
            "STATE_TASKHUBS_SHOP__clientId": SERVER_IDENTITY["clientId"],
        }
        self.azure.reset(
            {
                self.client.app: {
                    "resourceGroup": RESOURCE_GROUP,
                    "slots": {name: {"settings": dict(values)} for name, values in slots.items()},
                    "sticky": list(sticky),
                },
                SERVER_APP: {
                    "resourceGroup": SERVER_GROUP,
                    "hostNames": ["127.0.0.1"],
                    "identity": {"principalId": None, "userAssignedIdentities": {"id": SERVER_IDENTITY}},
                    "slots": {"production": {"settings": server_settings}},
                },
            }
        )
        self.azure.update(
            topics={
                TOPIC: {
                    "resourceGroup": SERVER_GROUP,
                    "endpoint": self.grid.topic.url,
                    "key": KEY,
                    "subscriptions": [complete_subscription()] if subscriptions is None else subscriptions,
                }
            },
            storageAccounts={"shopstate": SERVER_GROUP, "shopdurable": RESOURCE_GROUP},
        )

    def run(self, *options: str, role: str = "deployer", **variables: str) -> CheckResults:
        """Run doctor with the options for Azure. Fails if a key of the topic is printed or is an argument of `az`."""
        results = run_doctor(self.client, "--resource-group", RESOURCE_GROUP, *options, role=role, **variables)
        assert KEY not in results.err + str(dict(results))
        assert not any(KEY in argument for call in self.azure.calls for argument in call)
        return results


def complete_subscription(**members: Any) -> dict[str, Any]:
    """The subscription that the templates make."""
    function = f"{site_id(SERVER_GROUP, SERVER_APP)}/functions/RecordLifecycleEvent"
    subscription = build_subscription(
        "state-server",
        function,
        dead_letters="/account/blobServices/default/containers/lifecycle-dead-letters",
        types=["orchestratorEvent"],
    )
    return subscription | members


@contextmanager
def run_guarded_app(client: AppClient, azure: FakeAzure) -> Iterator[GuardedApp]:
    """A complete set-up, whose topic delivers to the server until the block ends."""
    with run_event_grid(f"{client.url}/api/events?code={KEYS['publisher']}&run={uuid.uuid4().hex}") as grid:
        app = GuardedApp(client, azure, grid)
        app.set_up()
        yield app
