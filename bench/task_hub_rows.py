"""Rows of finished instances, as the state server and the Durable Functions extension write them."""

import time
import uuid
from typing import Any

from state_api.domain.instants import TICKS_PER_SECOND, Instant, format_instant
from state_api.domain.task_hubs.lifecycle import Finished, Instance, RuntimeStatus, Started
from state_api.storage.instance_rows import instance_row

FUNCTION_NAME = "Wait"
_DATE_TIME = "Edm.DateTime"


def recorded_row(shard: str, instance_id: str) -> dict[str, Any]:
    """The state server's row of an orchestration that has completed."""
    started_at = instant_ago(7200)
    ended_at = Instant(started_at + TICKS_PER_SECOND)
    instance = Instance(
        instance_id,
        Started(started_at, RuntimeStatus.RUNNING, FUNCTION_NAME),
        Finished(ended_at, RuntimeStatus.COMPLETED, "", FUNCTION_NAME),
    )
    return instance_row(shard, instance)


def provider_row(task_hub: str, instance_id: str) -> dict[str, Any]:
    """The extension's row in `{TaskHub}Instances` of an orchestration that has completed.

    It has the columns of tests/recordings/instances.jsonl. Instance ids are random, so rows are not in order of age."""
    created_at, ended_at = format_instant(instant_ago(7201)), format_instant(instant_ago(7200))
    return {
        "PartitionKey": instance_id,
        "RowKey": "",
        "Input": '{"orderId":"4711","items":3}',
        "CreatedTime@odata.type": _DATE_TIME,
        "CreatedTime": created_at,
        "Name": FUNCTION_NAME,
        "RuntimeStatus": "Completed",
        "LastUpdatedTime@odata.type": _DATE_TIME,
        "LastUpdatedTime": ended_at,
        "TaskHubName": task_hub,
        "ExecutionId": uuid.uuid4().hex,
        "Generation": 0,
        "Tags": "null",
        "ParentInstanceId": "",
        "CustomStatus": "null",
        "CompletedTime@odata.type": _DATE_TIME,
        "CompletedTime": ended_at,
        "Output": '"shipped"',
    }


def instant_ago(seconds: int) -> Instant:
    return Instant(int((time.time() - seconds) * TICKS_PER_SECOND))
