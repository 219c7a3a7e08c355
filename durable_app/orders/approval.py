"""The approval of an order: an external event, awaited until the order's deadline."""

from collections.abc import Generator
from datetime import timedelta
from enum import StrEnum
from typing import Any

import azure.durable_functions as df

APPROVAL_EVENT = "Approval"


class Decision(StrEnum):
    APPROVED = "Approved"
    REJECTED = "Rejected"
    EXPIRED = "Expired"


def wait_for_decision(context: df.DurableOrchestrationContext, timeout_seconds: float) -> Generator[Any, Any, Decision]:
    """Await the approval, whose data is true or false. Call it with `yield from`."""
    context.set_custom_status("WaitingForApproval")
    answer = context.wait_for_external_event(APPROVAL_EVENT)
    deadline = context.create_timer(context.current_utc_datetime + timedelta(seconds=timeout_seconds))
    winner = yield context.task_any([answer, deadline])
    if winner == deadline:
        return Decision.EXPIRED
    # A running timer would keep the orchestration from completing.
    deadline.cancel()
    return Decision.APPROVED if is_approval(answer.result) else Decision.REJECTED


def is_approval(data: Any) -> bool:
    """Whether this event data approves the order.

    The SDK's `raise_event` encodes data as JSON twice, so True arrives as the text `true`. The management API encodes
    it once."""
    return data is True or data == "true"
