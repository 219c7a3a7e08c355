"""The results of reads that ended before a scan showed anything. They say only why."""

import logging
from dataclasses import replace

from state_api.backends.protocols import BackendError, ReadFailure
from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus
from state_api.services.probe_requests import ProbeRequest

log = logging.getLogger(__name__)

_STATUS_BY_FAILURE = {
    ReadFailure.MISSING: ProbeStatus.MISSING,
    ReadFailure.DENIED: ProbeStatus.DENIED,
    ReadFailure.THROTTLED: ProbeStatus.THROTTLED,
    ReadFailure.FAILED: ProbeStatus.FAILED,
}


def timed_out_result(request: ProbeRequest, message: str, now: Instant) -> ProbeResult:
    """The result of a read that ran out of time."""
    return _empty_result(request, ProbeStatus.INCOMPLETE, message, now)


def failed_result(request: ProbeRequest, error: BackendError, now: Instant) -> ProbeResult:
    """The result of a read that failed. The failure is logged."""
    log.warning("task hub %s cannot be read: %s", request.task_hub, error.message)
    result = _empty_result(request, _STATUS_BY_FAILURE[error.failure], error.message, now)
    return replace(result, retry_after_seconds=error.retry_after)


def _empty_result(request: ProbeRequest, status: ProbeStatus, message: str, now: Instant) -> ProbeResult:
    """A probe that ended at once, without having read any instance."""
    return ProbeResult(
        status, request.provider_config.provider, now, message=message, ended_at=now, request_key=request.key
    )
