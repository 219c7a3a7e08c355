"""The verdict: may the code in this slot be overwritten?

The verdict is Ready only if every condition holds. Evidence that is missing, incomplete, too old or failed is a
reason for NotReady.
"""

from dataclasses import dataclass, replace

from state_api.domain.instants import Instant
from state_api.domain.readiness.evidence import (
    ACTIVE_LIMIT,
    MAX_RETRY_AFTER_SECONDS,
    ActiveInstance,
    Evidence,
    ProbeStatus,
    is_drained,
)
from state_api.domain.readiness.exemptions import Exemptions, Waiver
from state_api.domain.readiness.policy import Assurance, Policy
from state_api.domain.readiness.reasons import (
    PROBE_FAILURE_CODES,
    ReadinessReason,
    ReadinessWarning,
    ReasonCode,
    ceil_seconds,
    deployment_in_progress_reason,
    events_only_warning,
    instances_active_reason,
    messages_unseen_warning,
    probe_failed_reason,
    probe_incomplete_reason,
    probe_pending_reason,
    probe_stale_reason,
    rollout_in_progress_reason,
    settling_reason,
    starts_pending_reason,
    swap_pending_reason,
    verification_required_reason,
)
from state_api.domain.readiness.validity import has_settled, is_probe_valid, remaining_settle_ticks

DEFAULT_RETRY_AFTER_SECONDS = 10
"""The value of `retryAfterSeconds` if the evidence gives no more precise one."""

_OMITTED_UNTIL_SETTLED = frozenset({ReasonCode.PROBE_PENDING, ReasonCode.PROBE_INCOMPLETE, ReasonCode.PROBE_STALE})
"""Reasons that are not reported while instances are active or events arrive: the task hub is scanned after that."""


@dataclass(frozen=True, slots=True)
class WaivedInstance:
    """An active instance that does not block, because of a waiver."""

    active: ActiveInstance
    waiver: Waiver


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a slot may be overwritten, and the evidence for it.

    `active`: the instances that block, oldest first. `active_count` is exact unless `active_count_is_lower_bound`.
    `ignored_count`: active instances that the policy ignores. `retry_after_seconds` is None if the verdict is Ready.
    """

    ready: bool
    assurance: Assurance
    reasons: tuple[ReadinessReason, ...]
    active: tuple[ActiveInstance, ...]
    active_count: int
    active_count_is_lower_bound: bool
    ignored_count: int
    evidence: Evidence
    checked_at: Instant
    retry_after_seconds: int | None
    waived: tuple[WaivedInstance, ...] = ()
    warnings: tuple[ReadinessWarning, ...] = ()
    starts_pending: bool = False

    @property
    def has_running(self) -> bool:
        """Whether an instance is active or about to start. The open deployment of another run does not count."""
        return not is_drained(active_count=self.active_count, starts_pending=self.starts_pending)


def assess_readiness(evidence: Evidence, policy: Policy, now: Instant) -> Verdict:
    """The verdict that this evidence allows.

    `now` must be of the state storage's clock, as `last_recorded_at` and the times of the probe are.
    """
    return _Assessment(evidence, policy, now).verdict()


class _Assessment:
    """The assessment of one evidence at one moment."""

    def __init__(self, evidence: Evidence, policy: Policy, now: Instant) -> None:
        """Decide once what several reasons depend on: which instances are exempt, and whether the probe counts."""
        self._evidence = evidence
        self._policy = policy
        self._now = now
        # A waiver may have expired while the task hub was read.
        waivers = tuple(waiver for waiver in evidence.waivers if waiver.is_in_force(now))
        self._exemptions = Exemptions(policy.ignore_functions, waivers)
        self._probe_is_valid = (
            evidence.provider is not None
            and evidence.probe is not None
            and is_probe_valid(evidence.probe, evidence.activity, policy, now, seen_before=evidence.seen_before)
        )
        self._current_probe = None if self._is_probe_stale() else evidence.probe
        self._active_instances = self._merge_active_instances()

    def verdict(self) -> Verdict:
        """The verdict on this evidence. It is Ready if there is no reason against it.

        A lower bound of the active instances is at least 1: instances that are not listed are active too."""
        blocking = [instance for instance in self._active_instances if not self._exempts(instance)]
        active = tuple(blocking[:ACTIVE_LIMIT])
        is_lower_bound = (
            self._evidence.activity.has_more
            or len(blocking) > ACTIVE_LIMIT
            or self._count_blocking_in_probe() > len(blocking)
        )
        count = max(len(active), 1) if is_lower_bound else len(active)
        reasons = [*self._deployment_reasons()]
        if self._evidence.task_hub is not None:
            reasons += self._task_hub_reasons(
                self._evidence.task_hub, active, count=count, is_lower_bound=is_lower_bound
            )
        return Verdict(
            ready=not reasons,
            assurance=Assurance.VERIFIED if self._is_verified() else Assurance.EVENTS,
            reasons=tuple(reasons),
            active=active,
            active_count=count,
            active_count_is_lower_bound=is_lower_bound,
            ignored_count=self._count_ignored(),
            evidence=self._evidence,
            checked_at=self._now,
            retry_after_seconds=self._retry_after_seconds(reasons),
            waived=self._list_waived(),
            warnings=self._warnings(),
            starts_pending=self._has_pending_starts(),
        )

    # Reasons

    def _deployment_reasons(self) -> list[ReadinessReason]:
        """The reasons by which the deployment or the swap of another run, or a rollout, blocks."""
        reasons = []
        if self._evidence.deployment is not None:
            reasons.append(deployment_in_progress_reason(self._evidence.deployment, self._now))
        if self._evidence.pending_swap is not None:
            reasons.append(swap_pending_reason(self._evidence.pending_swap, self._now))
        if self._evidence.rollout is not None:
            reasons.append(rollout_in_progress_reason(self._evidence.rollout))
        return reasons

    def _task_hub_reasons(
        self, task_hub: str, active: tuple[ActiveInstance, ...], *, count: int, is_lower_bound: bool
    ) -> list[ReadinessReason]:
        """Why this task hub keeps the slot from being Ready: active instances, the settle window, starts, the probe."""
        reasons = []
        activity, policy, now = self._evidence.activity, self._policy, self._now
        settled = has_settled(activity, policy, now)
        if count:
            reasons.append(
                instances_active_reason(task_hub, active, count=count, is_lower_bound=is_lower_bound, now=now)
            )
        elif not settled:
            reasons.append(settling_reason(task_hub, policy, remaining_settle_ticks(activity, policy, now)))
        if self._has_pending_starts() and self._current_probe is not None and self._current_probe.messages is not None:
            reasons.append(starts_pending_reason(task_hub, self._current_probe.messages, now))
        reason = self._probe_reason(task_hub)
        if reason is not None and not (reason.code in _OMITTED_UNTIL_SETTLED and (count or not settled)):
            reasons.append(reason)
        return reasons

    def _probe_reason(self, task_hub: str) -> ReadinessReason | None:
        """The reason if the probe does not prove what the policy requires; None if it does."""
        evidence, probe = self._evidence, self._evidence.probe
        if evidence.provider is None:
            return verification_required_reason() if self._policy.require_verification else None
        if probe is None:
            return probe_pending_reason(task_hub, evidence.provider)
        if self._probe_is_valid:
            return None
        if probe.status in PROBE_FAILURE_CODES:
            could_be_drained = (
                probe.status is ProbeStatus.MISSING
                and not evidence.seen_before
                and not self._policy.missing_task_hub_is_drained
            )
            return probe_failed_reason(task_hub, probe, suggests_missing_is_drained=could_be_drained)
        if probe.status is ProbeStatus.INCOMPLETE:
            return probe_incomplete_reason(task_hub, probe)
        return probe_stale_reason(task_hub, probe, evidence.activity, self._policy)

    def _retry_after_seconds(self, reasons: list[ReadinessReason]) -> int | None:
        """When a caller should ask again: at the end of the settle window, or when the provider says; None if Ready."""
        if not reasons:
            return None
        if [reason.code for reason in reasons] == [ReasonCode.SETTLING]:
            return max(1, ceil_seconds(remaining_settle_ticks(self._evidence.activity, self._policy, self._now)))
        probe = self._evidence.probe
        requested = (probe.retry_after_seconds if probe is not None else None) or 0
        return max(DEFAULT_RETRY_AFTER_SECONDS, min(requested, MAX_RETRY_AFTER_SECONDS))

    # The probe

    def _is_probe_stale(self) -> bool:
        """Whether a complete probe is too old or superseded. Its instances do not count, and ProbeStale is a reason."""
        probe = self._evidence.probe
        return (
            self._evidence.provider is not None
            and probe is not None
            and probe.status is ProbeStatus.COMPLETE
            and not self._probe_is_valid
        )

    def _is_verified(self) -> bool:
        """Whether the task hub itself has shown the verdict: by a valid, complete probe, or by an active instance."""
        probe = self._evidence.probe
        is_read = self._probe_is_valid and probe is not None and probe.status is ProbeStatus.COMPLETE
        return self._evidence.task_hub is not None and (self._evidence.active_instance_seen or is_read)

    def _has_pending_starts(self) -> bool:
        """Whether the probe found starts of orchestrations that are still messages."""
        return self._current_probe is not None and self._current_probe.starts_pending

    def _warnings(self) -> tuple[ReadinessWarning, ...]:
        """What the verdict cannot see: the task hub itself, or starts that are only messages."""
        task_hub, provider, probe = self._evidence.task_hub, self._evidence.provider, self._evidence.probe
        if task_hub is None:
            return ()
        if provider is None:
            return (events_only_warning(task_hub),)
        if self._policy.ignore_messages:
            return (messages_unseen_warning(task_hub, "the policy says ignoreMessages"),)
        if probe is not None and probe.status is ProbeStatus.COMPLETE and probe.messages is None:
            return (messages_unseen_warning(task_hub, f"{provider} does not show them"),)
        return ()

    # Instances

    def _exempts(self, instance: ActiveInstance) -> bool:
        """Whether the instance does not block: the policy ignores its function, or it is waived."""
        return self._exemptions.exempts(instance.function_name, instance.instance_id)

    def _merge_active_instances(self) -> list[ActiveInstance]:
        """The active instances that events or the probe show, oldest first.

        Where both show an instance, the probe knows its status and version. If only one of the two names a function
        that the policy does not ignore, that name counts.
        """
        probe = self._current_probe
        in_probe = {instance.instance_id: instance for instance in (*probe.active, *probe.waived)} if probe else {}
        looked_up = {instance.instance_id: instance for instance in self._evidence.looked_up_instances}
        merged = dict(in_probe)
        for recorded in (*self._evidence.activity.active, *self._evidence.activity.waived):
            seen = looked_up.get(recorded.instance_id) or in_probe.get(recorded.instance_id)
            if seen is None:
                merged[recorded.instance_id] = recorded
            elif self._exemptions.ignores(seen.function_name) or seen.function_name == recorded.function_name:
                merged[recorded.instance_id] = replace(
                    recorded, runtime_status=seen.runtime_status, version=seen.version
                )
            else:
                merged[recorded.instance_id] = seen
        return sorted(merged.values(), key=lambda instance: (instance.started_at, instance.instance_id))

    def _count_blocking_in_probe(self) -> int:
        """The number of active instances that the probe saw and that block, with those that it only counted."""
        probe = self._current_probe
        if probe is None:
            return 0
        return sum(not self._exempts(instance) for instance in probe.active) + probe.unlisted_count

    def _count_ignored(self) -> int:
        """How many active instances the policy ignores. Events and the probe may show the same ones."""
        activity, probe = self._evidence.activity, self._current_probe
        in_records = activity.ignored_count + self._count_ignored_among(activity.active)
        in_probe = 0 if probe is None else probe.ignored_count + self._count_ignored_among(probe.active)
        return max(in_records, in_probe)

    def _count_ignored_among(self, instances: tuple[ActiveInstance, ...]) -> int:
        """How many of these instances are of functions that the policy ignores."""
        return sum(self._exemptions.ignores(instance.function_name) for instance in instances)

    def _list_waived(self) -> tuple[WaivedInstance, ...]:
        """The active instances that only a waiver keeps from blocking, each with its waiver."""
        return tuple(
            WaivedInstance(instance, waiver)
            for instance in self._active_instances
            if (waiver := self._exemptions.find_waiver(instance.instance_id)) is not None
            and not self._exemptions.ignores(instance.function_name)
        )
