"""One example of every object that the storage keeps, with a value in every member."""

from state_api.domain.instants import Instant, parse_instant, seconds
from state_api.domain.readiness.evidence import ActiveInstance, ProbeResult, ProbeStatus, VersionCount
from state_api.domain.readiness.exemptions import Waiver
from state_api.domain.readiness.messages import (
    KnownTimers,
    MessageEvidence,
    MessageKind,
    MessageState,
    ObservedQueues,
    PendingStart,
    PendingTimer,
    QueueSnapshot,
    QuietPeriod,
    VisibleMessage,
)
from state_api.domain.readiness.policy import Policy, QuiesceOrder, RetentionPolicy
from state_api.domain.readiness.scans import Scan
from state_api.domain.releases.apps import App, Deployment, PendingSwap, PriorHub, ProviderConfig, RetiredHub, Slot
from state_api.domain.releases.side_by_side.releases import (
    Model,
    PendingRemoval,
    Release,
    ReleaseTokens,
    RemovedRelease,
    RouterAcknowledgement,
    Routing,
    RoutingChange,
    TrafficStop,
)
from state_api.domain.rollouts.analysis import Analysis, OnUndecided, OnUnhealthy
from state_api.domain.rollouts.rollouts import Decision, DecisionAction, Rollout, RolloutState, Step
from state_api.domain.task_hubs.delivery_checks import DeliveryCheck
from state_api.domain.task_hubs.lifecycle import EvidenceSource, Finished, Instance, RuntimeStatus, Started
from state_api.domain.task_hubs.ownership import OwnershipProof, ProofBasis
from state_api.domain.task_hubs.timeline import CounterKey, minute_of
from state_api.services.ports import AuditRecord, QuarantinedEvent, TaskHubRecord
from state_api.storage.task_hub_state_rows import TaskHubState

NOON = parse_instant("2026-11-20T12:00:00.0000001Z")


def noon_plus(offset_seconds: float) -> Instant:
    """The instant this many seconds after noon of the example day."""
    return Instant(NOON + seconds(offset_seconds))


DEPLOYMENT = Deployment(
    task_hub="shop2",
    version="1.1.0",
    slot="staging",
    started_at=noon_plus(2),
    started_by="build",
    run_url="https://example.com/runs/2",
    run_id="url:https://example.com/runs/2",
)
APP = App(
    name="Shop",
    model=Model.SIDE_BY_SIDE,
    slots={
        "production": Slot(task_hub="shop1", version="1.0.0", since=noon_plus(1), promoted=True),
        "staging": Slot(
            task_hub="shop2",
            version=None,
            since=noon_plus(2),
            promoted=False,
            prior_hubs=(PriorHub(task_hub="shop0", promoted=True, had_traffic=True),),
            had_traffic=True,
            may_have_pinned_visitors=True,
        ),
        "canary": None,
    },
    policy=Policy(
        settle_seconds=31,
        freshness_seconds=121,
        require_verification=True,
        deployment_timeout_minutes=61,
        ignore_functions=("Monitor*",),
        retention=RetentionPolicy(keep_last=1, keep_for_hours=2),
        missing_task_hub_is_drained=True,
        message_visibility_seconds=301,
        ignore_messages=True,
        max_releases=5,
        address_pattern="https://shop-*.example",
        sticky_after_promotion=True,
        quiesce_functions=("Nightly",),
        quiesce_order=QuiesceOrder.OVERLAP,
    ),
    provider_config=ProviderConfig(
        provider="azureStorage",
        connection="STATE_TASKHUBS_SHOP",
        tracking_connection="STATE_TASKHUBS_TRACKING",
        tracking_prefix="Tracking",
    ),
    deployment=DEPLOYMENT,
    pending_swap=PendingSwap(
        task_hub="shop2",
        swapped_out="shop1",
        slot="staging",
        started_at=noon_plus(3),
        started_by="release",
        run_url=None,
        run_id="hub:shop2",
        rollback=True,
        slots_before={"production": None},
        deployment=DEPLOYMENT,
    ),
    releases={
        "2.0.0": Release(
            version="2.0.0",
            task_hub="shop20",
            address="https://shop-20.example",
            tokens=ReleaseTokens("sticky", "override"),
            registered_at=noon_plus(10),
            adopted=True,
            first_traffic_at=noon_plus(11),
            traffic_end=RoutingChange(7, noon_plus(12)),
            sticky_until=noon_plus(13),
            removal=PendingRemoval(
                change=RoutingChange(8, noon_plus(14)),
                started_by="retire",
                run_url="https://example.com/runs/3",
                run_id="url:https://example.com/runs/3",
            ),
            drained_backend="storage of shop",
        ),
    },
    removed_releases=(
        RemovedRelease(
            version="1.9.0",
            task_hub="shop19",
            address="https://shop-19.example",
            registered_at=noon_plus(15),
            first_traffic_at=noon_plus(16),
            last_traffic_at=noon_plus(17),
            removed_at=noon_plus(18),
        ),
    ),
    routing=Routing(revision=8, updated_at=noon_plus(19), active="2.1.0", split={"2.1.0": 90, "2.2.0": 10}),
    rollout=Rollout(
        candidate="2.2.0",
        baseline="2.1.0",
        candidate_hub="shop22",
        baseline_hub="shop21",
        candidate_version="2.2.0",
        steps=(Step(weight=10, minutes=15.5), Step(weight=50, minutes=30)),
        analysis=Analysis(
            tolerated_ratio=1.5,
            confidence=0.99,
            minimum_finished=20,
            maximum_active_age_minutes=45,
            on_unhealthy=OnUnhealthy.PAUSE,
            on_undecided=OnUndecided.ABORT,
        ),
        state=RolloutState.PAUSED,
        step_index=1,
        weight=50,
        confirmed_at=noon_plus(20),
        started_at=noon_plus(21),
        started_by="release",
        run_url="https://example.com/runs/4",
        run_id="url:https://example.com/runs/4",
        share_changes=(noon_plus(21), noon_plus(22)),
        cleared_at=noon_plus(23),
        last_decision=Decision(noon_plus(24), DecisionAction.PAUSE, "FailureRateHigher", "3 of 10 failed"),
    ),
    retired=(RetiredHub(task_hub="shop0", version="0.9.0", retired_at=noon_plus(4)),),
    waivers=(
        Waiver(
            task_hub="shop1",
            instance_id="order-1",
            reason="stuck",
            by="operator",
            created_at=noon_plus(5),
            expires_at=noon_plus(6),
            unexplained_messages=7,
        ),
    ),
    revision=8,
    updated_at=noon_plus(9),
    updated_by="release",
    deleted=True,
)
ROUTER_ACKNOWLEDGEMENT = RouterAcknowledgement(
    router="envoy-1",
    revision=8,
    since=noon_plus(1),
    seen_at=noon_plus(2),
    stops=(
        TrafficStop(revision=5, visits_end=noon_plus(3), since=noon_plus(4)),
        TrafficStop(revision=6, visits_end=None, since=noon_plus(5)),
    ),
)
AUDIT_RECORD = AuditRecord(
    revision=8,
    at=noon_plus(9),
    operation="PostSwap",
    by="release",
    run_url="https://example.com/runs/2",
    key_name="pipeline",
    reason="rollback",
    details={"taskHub": "shop2", "forced": True},
)
TASK_HUB = TaskHubRecord(
    name="Shop1",
    shards=4,
    app="shop",
    recording=True,
    closed=True,
    deletion_id="9f86d081884c7d65",
    deleting_from="azureStorage STATE_TASKHUBS_SHOP",
    proof=OwnershipProof(basis=ProofBasis.NEW, addresses=("https://shop.table.core.windows.net",), at=noon_plus(0)),
)
DELIVERY_CHECKS = (DeliveryCheck("0123456789abcdef0123456789abcdef", noon_plus(1), noon_plus(2)),)
TASK_HUB_STATE = TaskHubState(
    shards=4,
    recording=True,
    closed=True,
    seen=True,
    confirmed_backend="azureStorage https://shop.table.core.windows.net",
)
ACTIVE_INSTANCE = ActiveInstance(
    instance_id="order-1",
    function_name="Fulfill",
    runtime_status=RuntimeStatus.RUNNING,
    started_at=noon_plus(1),
    last_event_at=noon_plus(2),
    source=EvidenceSource.PROBE,
    version="1.0",
)
PROBE_RESULT = ProbeResult(
    status=ProbeStatus.COMPLETE,
    provider="azureStorage",
    began_at=noon_plus(0),
    active=(ACTIVE_INSTANCE,),
    scanned=11,
    message="complete",
    ended_at=noon_plus(12),
    unlisted_count=13,
    ignored_count=14,
    versions=(VersionCount(version="1.0", active=15, oldest_started_at=noon_plus(1)),),
    request_key="request",
    resumed=True,
    read_seconds=16,
    waived=(ACTIVE_INSTANCE,),
    retry_after_seconds=17,
    correction_epoch="epoch",
    messages=MessageEvidence(
        checked_at=noon_plus(18),
        visible=19,
        invisible=20,
        explained=21,
        starts=(PendingStart(instance_id="order-2", function_name="Ship"),),
        start_count=22,
        more_visible=True,
        unexplained_count=23,
        unblocks_at=noon_plus(24),
        waived=25,
    ),
)
SCAN = Scan(
    began_at=noon_plus(0),
    changed_since=noon_plus(-1),
    cursors=["cursor"],
    next_pass_cursors=["start"],
    request_key="request",
    call_count=2,
    pass_number=3,
    page_count=4,
    scanned=5,
    blocking_count=6,
    listed_blocking=[ACTIVE_INSTANCE],
    ignored_count=7,
    waived=[ACTIVE_INSTANCE],
    versions={"1.0": (8, noon_plus(1))},
    new_instance_hashes=[9],
    stamp_digest=2**64 - 1,
    stamp_count=10,
    exempt_digest=14,
    previous_stamp_digest=11,
    recorded_count=12,
    correction_epoch="epoch",
    read_seconds=13.5,
    queues_read_in_pass=3,
    observed_queues=ObservedQueues(
        snapshot=QueueSnapshot(
            message_count=14,
            visible=(
                VisibleMessage(
                    message_id="message",
                    dequeue_count=15,
                    kind=MessageKind.START,
                    instance_id="order-2",
                    function_name="Ship",
                ),
            ),
            peeked_twice=16,
            more_visible=True,
            partition_owners="owners",
        ),
        pending_timers=17,
        possibly_pending_timers=18,
        began_at=noon_plus(19),
        ended_at=noon_plus(20),
    ),
)
MESSAGE_STATE = MessageState(
    backend_id="azureStorage https://shop.table.core.windows.net",
    timers=KnownTimers(
        timers=(PendingTimer(key=1, fire_at=noon_plus(60)),),
        read_through=noon_plus(0),
        cursor="cursor",
        reading_since=noon_plus(1),
        truncated=True,
    ),
    quiet_period=QuietPeriod(
        exemptions_key="exemptions",
        began_at=noon_plus(2),
        changed_since=noon_plus(-1),
        stamp_digest=3,
        unexplained_count=4,
        queue_digest="digest",
    ),
)
RESTARTED_INSTANCE = Instance(
    instance_id="order/1",
    started=Started(
        at=noon_plus(2),
        runtime_status=RuntimeStatus.RUNNING,
        function_name="Fulfill",
        source=EvidenceSource.EVENT,
        confirmed_backend="azureStorage https://shop.table.core.windows.net",
    ),
    finished=Finished(
        at=noon_plus(1),
        outcome=RuntimeStatus.FAILED,
        reason="out of stock",
        function_name="Ship",
        source=EvidenceSource.PROBE,
    ),
)
COUNTED_MINUTES = minute_of(NOON)
COUNTS = {
    CounterKey(COUNTED_MINUTES, "Fulfill", "started"): 3,
    CounterKey(COUNTED_MINUTES + 9, "Fulfill", "started"): -1,
    CounterKey(COUNTED_MINUTES + 2, "Fulfill", "failed"): 1,
    CounterKey(COUNTED_MINUTES, "Fulfill", "cohort.failed.43.2"): 1,
    CounterKey(COUNTED_MINUTES, "Ship", "cohort.completed.43"): 2,
}
QUARANTINED_EVENT = QuarantinedEvent(
    received_at=noon_plus(0),
    code="TooManyTaskHubs",
    message="no app has claimed the task hub",
    endpoint_type="webhook",
    event='{"id": 1}',
    truncated=True,
    task_hub="Shop1",
)
