"""The rows of an app: its state, its audit log, the versions that it has used, and its entry in the list of apps. State
and audit records are JSON, because each is always read whole."""

from collections.abc import Mapping
from typing import Any

from state_api.domain.names import app_key
from state_api.domain.releases.apps import App
from state_api.services.ports import AuditRecord
from state_api.storage.schema import APP_INDEX_SCHEMA, APP_SCHEMA, AUDIT_SCHEMA, VERSION_SCHEMA
from state_api.storage.stored_apps import StoredApp, StoredAuditRecord
from state_api.storage.tables import join_property, split_property

APP_ROW_KEY = "app"
"""The row key of an app's state. Its partition is the key of the app's name."""
INDEX_PARTITION = "|apps"
"""The partition that lists all apps. No app name contains a `|`."""
AUDIT_KEYS_FROM = "audit|"
AUDIT_KEYS_TO = "audit}"
_MAX_REVISION = 10**10


def app_row(app: App) -> dict[str, Any]:
    """The row that holds the state of an app."""
    return {
        "PartitionKey": app_key(app.name),
        "RowKey": APP_ROW_KEY,
        **APP_SCHEMA.schema_property,
        "Name": app.name,
        **split_property("State", StoredApp.from_domain(app).to_json()),
    }


def app_from_row(row: Mapping[str, Any]) -> App:
    """The app in the row of its state. Raises UnsupportedSchema."""
    APP_SCHEMA.check(row)
    return StoredApp.from_json(join_property("State", row)).to_domain()


def app_index_row(app_name: str) -> dict[str, Any]:
    """The app's entry in the list of apps."""
    return {"PartitionKey": INDEX_PARTITION, "RowKey": app_key(app_name), **APP_INDEX_SCHEMA.schema_property}


def version_row_key(version: str) -> str:
    """The key of the row that keeps the version of a release from being used again."""
    return f"version|{version}"


def version_row(app_name: str, version: str, task_hub: str) -> dict[str, Any]:
    """The row that keeps the version of a release from being used again, also after the app was deleted."""
    return {
        "PartitionKey": app_key(app_name),
        "RowKey": version_row_key(version),
        **VERSION_SCHEMA.schema_property,
        "TaskHub": task_hub,
    }


def task_hub_from_version_row(row: Mapping[str, Any]) -> str:
    """The task hub of the release that had the version. Raises UnsupportedSchema."""
    VERSION_SCHEMA.check(row)
    return str(row["TaskHub"])


def audit_row(app_name: str, record: AuditRecord) -> dict[str, Any]:
    """The row of an audit record. Its key counts down with the revision, so that a query in key order returns the
    newest record first."""
    return {
        "PartitionKey": app_key(app_name),
        "RowKey": f"{AUDIT_KEYS_FROM}{_MAX_REVISION - record.revision:010d}",
        **AUDIT_SCHEMA.schema_property,
        **split_property("Record", StoredAuditRecord.from_domain(record).to_json()),
    }


def audit_record_from_row(row: Mapping[str, Any]) -> AuditRecord:
    """The audit record in a row of the audit log. Raises UnsupportedSchema."""
    AUDIT_SCHEMA.check(row)
    return StoredAuditRecord.from_json(join_property("Record", row)).to_domain()
