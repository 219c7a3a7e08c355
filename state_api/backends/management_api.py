"""Task hubs of any provider, read through the HTTP management API that the Durable Functions extension serves in the
app itself (docs/platform.md, Other durable backends). Hides pages and the ways to find an instance.

The API has no filter for changes. So a scan is two passes: over all active instances, then over all instances that were
created since the scan began, with any status. If one instance starts another and ends during the first pass, the
first pass can miss both, but the second finds the other.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from state_api.backends.management_api_client import ManagementApiClient
from state_api.backends.protocols import ObservedPage, ScanStart
from state_api.backends.provider_values import parse_runtime_status
from state_api.domain.instants import Instant, format_instant, instant_from, parse_instant, seconds
from state_api.domain.names import is_entity
from state_api.domain.readiness.messages import KnownTimers, QueueSnapshot
from state_api.domain.task_hubs.lifecycle import ACTIVE_STATUSES
from state_api.domain.task_hubs.observations import ObservedInstance
from state_api.domain.task_hubs.ownership import ExistingArtifacts
from state_api.settings import SettingsError, TaskHubConnections

ACTIVE_PAGE_SIZE = 500
"""Large, because instances can cross the borders between pages unseen (see ManagementApiBackend). Active instances have
no output yet. Azure Tables returns at most 1,000 rows."""
RECENT_PAGE_SIZE = 100
"""The extension's default. Instances that have ended come with their outputs, which the API cannot leave out."""

_ACTIVE = "active"
_RECENT = "recent"
_ACTIVE_STATUSES = ",".join(sorted(ACTIVE_STATUSES))
_CLOCK_SKEW_MARGIN = seconds(60)
"""How far the clocks of the app's workers, which set created times, may differ. A minute is far more than two clocks
differ that are kept by NTP."""
_MAX_CONCURRENT_READS = 16
_DOT_SEGMENTS = (".", "..")
"""Ids that no path can contain, escaped or not: the path becomes that of the list, without pages, or of the API
(extension 3.19, run)."""
_UNUSED_ID_PREFIX = "~~~"
"""A prefix that probably no instance id has, so that the response is fast and small."""


@dataclass(frozen=True, slots=True)
class _InstanceList:
    """A page of the list, without entities. `token` leads to the next page; `server_date` is by the server's clock."""

    instances: tuple[ObservedInstance, ...]
    token: str | None
    server_date: Instant | None


class ManagementApiBackend:
    """Reads task hubs through the app that `client` leads to.

    This backend cannot distinguish a task hub that does not exist from an empty one. It never raises
    ReadFailure.MISSING. On Azure Storage the extension creates the task hub that is asked about (provider,
    `EnsureTaskHubAsync`, read) and answers with an empty list. So a wrong name looks like a drained task hub, and a
    request about a deleted task hub creates it again. By default MSSQL takes the task hub's name from the database
    login (`TaskHubMode`, read), and then ignores the name in the request. A tracking store that several task hubs share
    answers for all of them.

    Times are cut to seconds: a change shows in the stamp if it changes the status or falls into another second. The
    extension does not show orchestration versions (`HttpApiHandler.ConvertFrom`, read); a `version` is used if there is
    one.

    A scan misses an instance that was created before the scan and ends before its page of the first pass is read. It
    also misses an instance that is rewound after its page was read. Where the continuation token is a page number
    (MSSQL, read), instances that end between two pages move others across the border unseen. That matters only if a
    whole page is of instances that do not block.
    """

    provider = "managementApi"
    shows_messages = False
    artifacts = None

    def __init__(self, client: ManagementApiClient) -> None:
        self._client = client
        self._concurrency_limit = asyncio.Semaphore(_MAX_CONCURRENT_READS)

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self._client.address,)

    async def find_existing(self, task_hub: str) -> ExistingArtifacts | None:
        """Return None, because a request about a task hub creates it."""
        return None

    async def begin_scan(self, task_hub: str) -> ScanStart:
        """Begin a scan at the earlier of the times of the app's clock and of this server's. Too early a time makes the
        scan read a little more. With too late a time its second pass could miss a change. The query finds no instance:
        it gets the time of the app."""
        page = await self._list_instances(task_hub, 1, None, {"instanceIdPrefix": _UNUSED_ID_PREFIX})
        now = instant_from(datetime.now(UTC))
        earlier = now if page.server_date is None else min(now, page.server_date)
        return ScanStart(
            Instant(earlier - _CLOCK_SKEW_MARGIN), (_encode_cursor(_ACTIVE, None),), (_encode_cursor(_RECENT, None),)
        )

    async def read_page(self, task_hub: str, changed_since: Instant, cursor: str) -> ObservedPage:
        """Read one page of a pass; `cursor` says where it begins. Returns its instances and the cursors of what is
        left."""
        scan_pass, token = json.loads(cursor)
        if scan_pass == _ACTIVE:
            page = await self._list_instances(task_hub, ACTIVE_PAGE_SIZE, token, {"runtimeStatus": _ACTIVE_STATUSES})
        else:
            created_from = {"createdTimeFrom": format_instant(changed_since)}
            page = await self._list_instances(task_hub, RECENT_PAGE_SIZE, token, created_from)
        cursors: tuple[str, ...] = ()
        if page.token is not None:
            cursors = (_encode_cursor(scan_pass, page.token),)
        elif scan_pass == _ACTIVE:
            cursors = (_encode_cursor(_RECENT, None),)
        return ObservedPage(page.instances, cursors, len(page.instances))

    async def find_instances(self, task_hub: str, instance_ids: Sequence[str]) -> Mapping[str, ObservedInstance | None]:
        """Look up each instance by its id. None for one that the task hub does not show, and for an entity."""

        async def find_instance(instance_id: str) -> ObservedInstance | None:
            if not instance_id or is_entity(instance_id):
                return None
            async with self._concurrency_limit:
                observed = await self._find_by_path(task_hub, instance_id)
                return observed if observed is not None else await self._find_by_prefix(task_hub, instance_id)

        tasks = [asyncio.ensure_future(find_instance(instance_id)) for instance_id in instance_ids]
        try:
            return dict(zip(instance_ids, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()

    async def read_queue_snapshot(self, task_hub: str) -> QueueSnapshot | None:
        """Return None: the API does not show messages."""
        return None

    async def read_timers(self, task_hub: str, known: KnownTimers) -> KnownTimers:
        """Return what is known: the API does not show messages, those of timers included."""
        return known

    async def close(self) -> None:
        await self._client.close()

    async def _find_by_path(self, task_hub: str, instance_id: str) -> ObservedInstance | None:
        """Return the instance at its own path. None does not mean that there is no such instance."""
        if instance_id in _DOT_SEGMENTS:
            return None
        response = await self._client.get_instance(task_hub, instance_id)
        # On its way through the host a path can become that of another instance, or of the list.
        if not isinstance(response.body, dict) or response.body.get("instanceId") != instance_id:
            return None
        return self._parse_instances([response.body])[0]

    async def _find_by_prefix(self, task_hub: str, instance_id: str) -> ObservedInstance | None:
        """Find the instance among those whose ids begin like its own.

        The host and the extension each decode the path before they split it. So the answer for an id with a slash is
        404 although the instance runs. An app that does not serve the API answers 404 for every id. Only a list without
        the instance proves that there is none.
        """
        # Some providers' own queries fail at a quote or a bracket: the prefix ends before the first.
        prefix = re.split(r"['\[]", instance_id, maxsplit=1)[0]
        filters = {"instanceIdPrefix": prefix} if prefix else {}
        token: str | None = None
        while True:
            page = await self._list_instances(task_hub, RECENT_PAGE_SIZE, token, filters)
            for observed in page.instances:
                if observed.instance_id == instance_id:
                    return observed
            if page.token is None:
                return None
            if page.token == token:
                raise self._client.response_error("gives the same page of instances again and again")
            token = page.token

    async def _list_instances(
        self, task_hub: str, page_size: int, token: str | None, filters: Mapping[str, str]
    ) -> _InstanceList:
        """One page of instances that match the filters, without entities. Raises BackendError."""
        response = await self._client.list_instances(task_hub, page_size=page_size, token=token, filters=filters)
        instances = self._parse_instances(response.body)
        return _InstanceList(
            tuple(observed for observed in instances if not is_entity(observed.instance_id)),
            response.continuation_token,
            response.server_date,
        )

    def _parse_instances(self, instances: Sequence[Any]) -> list[ObservedInstance]:
        """The instances in a response. Raises BackendError for one that is not an instance."""
        try:
            return [_parse_instance(instance) for instance in instances]
        except ValueError:
            pass
        # Raised outside of the handler: its context would contain the response.
        raise self._client.response_error("answers with something that is not an instance")


def create_management_api_backend(connections: TaskHubConnections, setting_name: str) -> ManagementApiBackend:
    """Create the backend from the settings NAME__endpoint, NAME__key and NAME__storageConnection, where NAME is
    `setting_name`. Raises SettingsError."""
    endpoint, key = connections.get_text(f"{setting_name}__endpoint"), connections.get_text(f"{setting_name}__key")
    if endpoint is None:
        raise SettingsError(
            f"the setting {setting_name}__endpoint is not set on this server: set it to the address of the app whose "
            "task hubs are to be read, such as https://APP.azurewebsites.net"
        )
    if key is None:
        raise SettingsError(
            f"the setting {setting_name}__key is not set on this server: set it to the system key "
            f"durabletask_extension of the app at the address in {setting_name}__endpoint"
        )
    storage_connection = connections.get_text(f"{setting_name}__storageConnection")
    return ManagementApiBackend(ManagementApiClient(endpoint, key, setting_name, storage_connection=storage_connection))


def _parse_instance(instance: Any) -> ObservedInstance:
    """Convert an instance from the API's JSON. Raises ValueError for anything else.

    The stamp combines the times and the status, because it must differ after every change of the instance."""
    match instance:
        case {"instanceId": str(instance_id), "createdTime": str(created), "lastUpdatedTime": str(updated)}:
            name, version, status = instance.get("name"), instance.get("version"), instance.get("runtimeStatus")
            return ObservedInstance(
                instance_id=instance_id,
                function_name=name if isinstance(name, str) else "",
                version=version if isinstance(version, str) and version else None,
                runtime_status=parse_runtime_status(status),
                created_at=parse_instant(created),
                updated_at=parse_instant(updated),
                stamp=f"{created} {updated} {status}",
            )
    raise ValueError("not an instance")


def _encode_cursor(scan_pass: str, token: str | None) -> str:
    """The cursor of a page as text: the pass of the scan, and the continuation token of the management API."""
    return json.dumps([scan_pass, token])
