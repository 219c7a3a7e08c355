"""One verdict on a slot that may carry one of several task hubs.

A version is staged before it is deployed, and the deployment can fail. Until the outcome is known, the slot may still
carry the task hub that it carried before, so all of them are assessed.
"""

from collections.abc import Sequence
from dataclasses import replace

from state_api.domain.readiness.evidence import ACTIVE_LIMIT
from state_api.domain.readiness.policy import Assurance
from state_api.domain.readiness.verdict import Verdict


def combine_verdicts(staged: Verdict, prior_verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a slot from that on the staged task hub and those on its prior task hubs.

    It is Ready only if all of them are. The evidence is that of the staged task hub. The message of each reason names
    its task hub.
    """
    verdicts = [staged, *prior_verdicts]
    active = [instance for verdict in verdicts for instance in verdict.active]
    verified = all(verdict.assurance is Assurance.VERIFIED for verdict in verdicts)
    count = sum(verdict.active_count for verdict in verdicts)
    retries = [verdict.retry_after_seconds for verdict in verdicts if verdict.retry_after_seconds is not None]
    return replace(
        staged,
        ready=all(verdict.ready for verdict in verdicts),
        assurance=Assurance.VERIFIED if verified else Assurance.EVENTS,
        reasons=tuple(dict.fromkeys(reason for verdict in verdicts for reason in verdict.reasons)),
        active=tuple(sorted(active, key=lambda instance: (instance.started_at, instance.instance_id))[:ACTIVE_LIMIT]),
        active_count=min(count, ACTIVE_LIMIT),
        active_count_is_lower_bound=count > ACTIVE_LIMIT
        or any(verdict.active_count_is_lower_bound for verdict in verdicts),
        ignored_count=sum(verdict.ignored_count for verdict in verdicts),
        retry_after_seconds=max(retries, default=None),
        waived=tuple(waived for verdict in verdicts for waived in verdict.waived),
        warnings=tuple(dict.fromkeys(warning for verdict in verdicts for warning in verdict.warnings)),
        starts_pending=any(verdict.starts_pending for verdict in verdicts),
    )
