"""Sends deliveries to a server and checks that each of their events is recorded in its task hub or in quarantine."""

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import TableServiceClient

from state_api.settings import StorageSettings
from state_api.storage.tables import QUARANTINE_TABLE, instance_table_name

JSON_HEADERS = {"Content-Type": "application/json"}
VALIDATION_EVENT_TYPE = "Microsoft.EventGrid.SubscriptionValidationEvent"


def parse_body(body: bytes) -> Any:
    """Parse a body as the server does: NaN, infinities and very long integers become text. Raises ValueError and
    RecursionError."""
    return json.loads(body, parse_constant=str, parse_int=lambda digits: int(digits) if len(digits) < 1000 else digits)


@dataclass(frozen=True)
class DeliveryChecker:
    """Sends deliveries to a server and checks where their events are afterwards."""

    client: httpx.Client
    tables: TableServiceClient

    @classmethod
    @contextmanager
    def connect(cls, client: httpx.Client, storage: StorageSettings) -> Iterator["DeliveryChecker"]:
        """A checker that compares responses with what the server has stored, until the block ends."""
        assert storage.connection_string is not None
        with TableServiceClient.from_connection_string(storage.connection_string.get_secret_value()) as tables:
            yield cls(client, tables)

    def deliver(
        self, body: bytes, headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]] = JSON_HEADERS
    ) -> httpx.Response:
        """Empty the quarantine and send a delivery. Status 5xx fails the test, because the storage works."""
        self._empty_quarantine()
        response = self.client.post("/api/events", content=body, headers=headers)
        assert response.status_code in (200, 400), response.text
        return response

    def check_counts(self, response: httpx.Response) -> tuple[int, int]:
        """How many events the response counts as recorded, and how many as quarantined. Checks that the quarantine has
        that many."""
        assert response.status_code == 200, response.text
        counts = response.json()
        assert counts.keys() == {"recorded", "unchanged", "quarantined"}
        assert all(count >= 0 for count in counts.values())
        assert counts["quarantined"] == len(self.list_quarantined())
        return counts["recorded"] + counts["unchanged"], counts["quarantined"]

    def locate_events(self, response: httpx.Response, events: Sequence[Any]) -> Counter[str]:
        """Check that every event of a delivery is in quarantine or has a record.

        Returns the quarantined events as text.
        """
        recorded_count, quarantined_count = self.check_counts(response)
        assert recorded_count + quarantined_count == len(events)
        quarantined = Counter(self.list_quarantined())
        unmatched = quarantined.copy()
        recorded: list[Any] = []
        for event in events:
            text = json.dumps(event)
            if unmatched[text]:
                unmatched[text] -= 1
            else:
                recorded.append(event)
        assert not unmatched.total(), f"quarantined and never sent: {+unmatched}"
        assert len(recorded) == recorded_count
        hubs = {data["hubName"] for data in map(event_data, recorded)}
        ids_by_hub = {hub: {instance["instanceId"] for instance in self.list_instances(hub)} for hub in hubs}
        for event in recorded:
            data = event_data(event)
            assert data["instanceId"] in ids_by_hub[data["hubName"]], event
        return quarantined

    def list_quarantined(self) -> list[str]:
        """All events in quarantine, as text. Checks that none is there because of a defect."""
        events = self._list_all("/api/quarantine", "events")
        assert "UnexpectedError" not in {event["code"] for event in events}, events
        return [event["event"] for event in events]

    def list_instances(self, hub: str) -> list[Any]:
        """All recorded instances of a task hub."""
        return self._list_all(f"/api/taskhubs/{hub}/instances", "instances")

    def _list_all(self, path: str, member: str) -> list[Any]:
        """All members of a list operation, page by page."""
        listed: list[Any] = []
        token: str | None = None
        while True:
            parameters = {"top": "1000"} | ({"continuationToken": token} if token else {})
            response = self.client.get(path, params=parameters)
            assert response.status_code == 200, response.text
            page = response.json()
            listed += page[member]
            token = page["continuationToken"]
            if token is None:
                return listed

    def delete_instance_table(self, hub: str) -> None:
        """Delete an example's table, so that thousands of examples do not fill the emulator."""
        self.tables.delete_table(instance_table_name(hub))

    def _empty_quarantine(self) -> None:
        """Delete all rows of the quarantine, a hundred a transaction, which is the limit of Azure Tables."""
        table = self.tables.get_table_client(QUARANTINE_TABLE)
        try:
            rows = list(table.list_entities(select=["PartitionKey", "RowKey"]))
        except ResourceNotFoundError:
            return
        for first in range(0, len(rows), 100):
            table.submit_transaction([("delete", row) for row in rows[first : first + 100]])


def event_data(event: Any) -> Any:
    """The data of a valid event, which a CloudEvent may carry in Base64."""
    data = event.get("data")
    return json.loads(base64.b64decode(event["data_base64"])) if data is None else data


def is_handshake(events: Sequence[Any]) -> bool:
    """Whether a delivery is a validation request of Event Grid."""
    return len(events) == 1 and isinstance(events[0], dict) and events[0].get("eventType") == VALIDATION_EVENT_TYPE
