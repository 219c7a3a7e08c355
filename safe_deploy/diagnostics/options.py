"""What `doctor` is to check, and with what it asks Azure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from safe_deploy.azure_event_grid import EventGrid
from safe_deploy.azure_function_apps import FunctionApps
from safe_deploy.azure_slots import DeploymentSlots
from safe_deploy.azure_state_server import AzureStateServer
from safe_deploy.client import StateServerClient
from safe_deploy.diagnostics.durable_sites import DurableSite
from safe_deploy.diagnostics.event_path import EventPath
from safe_deploy.diagnostics.host_json import CHECK as HOST_JSON_CHECK
from safe_deploy.diagnostics.host_json import HostJson, assess_host_json
from safe_deploy.diagnostics.keys import KeyPurpose
from safe_deploy.diagnostics.results import CheckResult, ErrorFilter
from safe_deploy.diagnostics.status_urls import StatusUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What to check, for an app of either model. Without a resource group Azure is not asked.

    - `host_json`: that of the folder of the app, as far as it is known.
    - `publishes_event`: publish an event to the app's topic.
    - `report`: prints progress.
    """

    purpose: KeyPurpose
    slot: str
    deployment_slots: DeploymentSlots | None
    function_apps: FunctionApps | None
    task_hub_setting: str
    status_url: StatusUrl | None
    now: datetime
    host_json: HostJson = field(default_factory=HostJson)
    publishes_event: bool = True
    event_grid: EventGrid | None = None
    state_server: AzureStateServer | None = None
    report: Callable[[str], None] = print

    def check_host_json(self, host: HostJson | None = None) -> Iterator[CheckResult]:
        """What host.json says: that of the folder, or that with the members which the app's settings override."""
        yield from assess_host_json(host or self.host_json, task_hub_setting=self.task_hub_setting)

    def check_events(
        self,
        server: StateServerClient,
        task_hub: str,
        sites: Sequence[DurableSite],
        errors: ErrorFilter,
        *,
        is_verified: bool,
    ) -> Iterator[CheckResult]:
        """Follow the events of the first of the sites, whose task hub this is."""
        assert self.event_grid is not None, "there are sites only if Azure may be asked"
        assert self.state_server is not None, "there are sites only if Azure may be asked"
        hosts: list[HostJson] = []

        def check_host() -> Iterator[CheckResult]:
            """Check host.json with what the settings override."""
            hosts.append(self.host_json.with_overrides(sites[0].read_settings()))
            yield from self.check_host_json(hosts[0])

        yield from errors.run(HOST_JSON_CHECK, check_host)
        path = EventPath(
            server=server,
            task_hub=task_hub,
            is_verified=is_verified,
            publishes=self.publishes_event,
            sites=sites,
            source=(hosts or [self.host_json])[0].topic_source,
            event_grid=self.event_grid,
            state_server=self.state_server,
            errors=errors,
            report=self.report,
        )
        yield from path.check()
