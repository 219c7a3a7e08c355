"""Deliveries to a server, and the account of each: every event of it must be found, in its hub or in quarantine."""

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
    """A body as the server reads it: what is no number in JSON, or too long for one, is text. Raises ValueError,
    RecursionError."""
    return json.loads(body, parse_constant=str, parse_int=lambda digits: int(digits) if len(digits) < 1000 else digits)


@dataclass(frozen=True)
class DeliveryChecker:
    client: httpx.Client
    tables: TableServiceClient

    @classmethod
    @contextmanager
    def connect(cls, client: httpx.Client, storage: StorageSettings) -> Iterator["DeliveryChecker"]:
        assert storage.connection_string is not None
        with TableServiceClient.from_connection_string(storage.connection_string.get_secret_value()) as tables:
            yield cls(client, tables)

    def deliver(
        self, body: bytes, headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]] = JSON_HEADERS
    ) -> httpx.Response:
        """Deliver to a server whose quarantine is empty. Storage is well, so no answer may blame the server."""
        self._empty_quarantine()
        answer = self.client.post("/api/events", content=body, headers=headers)
        assert answer.status_code in (200, 400), answer.text
        return answer

    def check_counts(self, answer: httpx.Response) -> tuple[int, int]:
        """How many events an answer counts as understood and as quarantined; the quarantine holds exactly these."""
        assert answer.status_code == 200, answer.text
        counts = answer.json()
        assert counts.keys() == {"recorded", "unchanged", "quarantined"}
        assert all(count >= 0 for count in counts.values())
        assert counts["quarantined"] == len(self.list_quarantined())
        return counts["recorded"] + counts["unchanged"], counts["quarantined"]

    def locate_events(self, answer: httpx.Response, events: Sequence[Any]) -> Counter[str]:
        """Find every event of a delivery; the quarantined ones, as text."""
        understood, quarantined = self.check_counts(answer)
        assert understood + quarantined == len(events)
        kept = Counter(self.list_quarantined())
        left: list[Any] = []
        found = kept.copy()
        for event in events:
            text = json.dumps(event)
            if found[text]:
                found[text] -= 1
            else:
                left.append(event)
        assert not found.total(), f"quarantined and never sent: {+found}"
        assert len(left) == understood
        hubs = {data["hubName"] for data in map(event_data, left)}
        known = {hub: {one["instanceId"] for one in self.list_instances(hub)} for hub in hubs}
        for event in left:
            data = event_data(event)
            assert data["instanceId"] in known[data["hubName"]], event
        return kept

    def list_quarantined(self) -> list[str]:
        """Its events, as text. None may be there because the server did not foresee it."""
        entries = self._list_all("/api/quarantine", "events")
        assert "UnexpectedError" not in {one["code"] for one in entries}, entries
        return [one["event"] for one in entries]

    def list_instances(self, hub: str) -> list[Any]:
        return self._list_all(f"/api/taskhubs/{hub}/instances", "instances")

    def _list_all(self, path: str, name: str) -> list[Any]:
        listed: list[Any] = []
        token: str | None = None
        while True:
            parameters = {"top": "1000"} | ({"continuationToken": token} if token else {})
            answer = self.client.get(path, params=parameters)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            listed += page[name]
            token = page["continuationToken"]
            if token is None:
                return listed

    def delete_instance_table(self, hub: str) -> None:
        """Take an example's table away, so that thousands of examples do not fill the emulator."""
        self.tables.delete_table(instance_table_name(hub))

    def _empty_quarantine(self) -> None:
        table = self.tables.get_table_client(QUARANTINE_TABLE)
        try:
            rows = list(table.list_entities(select=["PartitionKey", "RowKey"]))
        except ResourceNotFoundError:
            return
        for first in range(0, len(rows), 100):
            table.submit_transaction([("delete", row) for row in rows[first : first + 100]])


def event_data(event: Any) -> Any:
    """The data of an event that was understood, in either form."""
    data = event.get("data")
    return json.loads(base64.b64decode(event["data_base64"])) if data is None else data


def is_handshake(events: Sequence[Any]) -> bool:
    """Whether a delivery is Event Grid's question instead of events."""
    return len(events) == 1 and isinstance(events[0], dict) and events[0].get("eventType") == VALIDATION_EVENT_TYPE
