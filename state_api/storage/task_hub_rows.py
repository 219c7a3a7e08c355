"""The row of a task hub in the registry: its columns, and the conversions from and to a record."""

import json
from collections.abc import Mapping
from typing import Any

from state_api.domain.instants import format_instant, parse_instant
from state_api.domain.names import hub_key
from state_api.domain.task_hubs.ownership import OwnershipProof, ProofBasis
from state_api.services.ports import TaskHubRecord
from state_api.storage.schema import TASK_HUB_SCHEMA

TASK_HUB_PARTITION = "hub"
APP_COLUMN = "App"
CLOSED_COLUMN = "Closed"


def task_hub_row_key(task_hub: str) -> dict[str, Any]:
    """Partition and row key. Task hub names are case-insensitive in Azure Storage, so the key is in lower case."""
    return {"PartitionKey": TASK_HUB_PARTITION, "RowKey": hub_key(task_hub)}


def task_hub_row(record: TaskHubRecord) -> dict[str, Any]:
    return {**task_hub_row_key(record.name), **TASK_HUB_SCHEMA.schema_property, **task_hub_columns(record)}


def task_hub_columns(record: TaskHubRecord) -> dict[str, Any]:
    """All columns but the key and the schema number. A row has no column whose value is None, and writing None does not
    clear a column."""
    return {
        "Name": record.name,
        "Shards": record.shards,
        APP_COLUMN: record.app,
        "Recording": record.recording,
        CLOSED_COLUMN: record.closed,
        "DeletionId": record.deletion_id,
        "DeletingFrom": record.deleting_from,
        "OwnershipProof": _serialize_proof(record.proof) if record.proof is not None else None,
    }


def task_hub_record_from_row(row: Mapping[str, Any]) -> TaskHubRecord:
    """The entry of the registry in its row. Raises UnsupportedSchema."""
    TASK_HUB_SCHEMA.check(row)
    proof = row.get("OwnershipProof")
    return TaskHubRecord(
        name=row["Name"],
        shards=row["Shards"],
        app=row.get(APP_COLUMN),
        recording=row["Recording"],
        closed=row[CLOSED_COLUMN],
        deletion_id=row["DeletionId"],
        deleting_from=row.get("DeletingFrom"),
        proof=_parse_proof(proof) if proof is not None else None,
    )


def _serialize_proof(proof: OwnershipProof) -> str:
    return json.dumps(
        {"basis": proof.basis.value, "addresses": list(proof.addresses), "provenAt": format_instant(proof.at)}
    )


def _parse_proof(text: str) -> OwnershipProof:
    members = json.loads(text)
    return OwnershipProof(
        basis=ProofBasis(members["basis"]),
        addresses=tuple(members["addresses"]),
        at=parse_instant(members["provenAt"]),
    )
