"""Requests, records, results and scans for tests of reads of a task hub."""

from collections.abc import Mapping
from dataclasses import replace

from state_api.domain.readiness.evidence import ActiveInstance, InstanceActivity, ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.lookups import Batch
from state_api.domain.readiness.messages import MessageEvidence
from state_api.domain.readiness.plan import (
    Done,
    ProbeOutcome,
    ReadState,
    RecordedState,
)
from state_api.domain.readiness.policy import Policy
from state_api.domain.readiness.requirements import (
    ReadRequirements,
    VerificationMode,
)
from state_api.domain.readiness.scans import Scan
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.domain.builders import build_active_instance, build_probe_result, noon_plus

KEY = "the key"
BACKEND_ID = "azureStorage at its address"
NOTHING_ACTIVE = InstanceActivity()
ORDER_1 = build_active_instance("order-1", since=-60)
ORDER_2 = build_active_instance("order-2", since=-50)


def build_requirements(
    mode: VerificationMode = VerificationMode.CACHED,
    *,
    policy: Policy | None = None,
    requested: float = 0,
    for_verdict: bool = True,
) -> ReadRequirements:
    """What a request needs to know of the task hub. `requested` is in seconds after noon."""
    return ReadRequirements(
        KEY,
        "azureStorage",
        BACKEND_ID,
        policy or Policy(),
        Exemptions(),
        mode,
        noon_plus(requested),
        for_verdict=for_verdict,
    )


def build_result(
    *active: ActiveInstance, began: float = -10, status: ProbeStatus = ProbeStatus.COMPLETE
) -> ProbeResult:
    """A probe result for the same settings as the request's. `began` is in seconds after noon."""
    return replace(build_probe_result(*active, began=began, status=status), request_key=KEY)


def build_result_with_messages(messages: MessageEvidence, began: float = -10) -> ProbeResult:
    """The result of a complete probe that has seen these messages."""
    return replace(build_result(began=began), messages=messages)


def build_scan(*cursors: str, began: float = -10, queues_read: int = 0, pass_number: int = 1) -> Scan:
    """A scan that still has to read these cursors. `began` is in seconds after noon."""
    return Scan(
        noon_plus(began),
        noon_plus(began),
        list(cursors),
        ["again"],
        KEY,
        pass_number=pass_number,
        queues_read_in_pass=queues_read,
    )


def build_records(*active: ActiveInstance, last_recorded: float | None = None) -> RecordedState:
    """Records that show these instances as active. The last event was recorded `last_recorded` seconds after noon."""
    recorded_at = None if last_recorded is None else noon_plus(last_recorded)
    return RecordedState(InstanceActivity(active=active, last_recorded_at=recorded_at), seen_before=True)


def build_state(**known: object) -> ReadState:
    """The state of a read. By default, the records of the task hub have been read and show nothing active."""
    return replace(ReadState(build_requirements(), records=build_records()), **known)  # type: ignore[arg-type]  # a member's name


def build_batch(
    *instances: ActiveInstance,
    observed: Mapping[str, ObservedInstance | None] | None = None,
    sees_messages: bool = True,
) -> Batch:
    """A batch of instances that were looked up. By default, the task hub shows none of them. With `sees_messages`, the
    control queues were read, too."""
    return Batch(instances, observed or dict.fromkeys(instance.instance_id for instance in instances), sees_messages)


def build_done(probe: ProbeResult | None, **outcome: object) -> Done:
    """The end of a plan with this probe result. `outcome` replaces members of the ProbeOutcome."""
    return Done(replace(ProbeOutcome(KEY, probe), **outcome))  # type: ignore[arg-type]  # a test names the member


FRESH = build_requirements(VerificationMode.FRESH)
LISTING = build_requirements(for_verdict=False)
