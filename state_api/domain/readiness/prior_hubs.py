"""A slot that may carry more than one task hub: may all of it be overwritten? Pure.

A version is staged before it is deployed, and the deployment can fail: the platform's slot then still carries the hub
that was there before. Both are judged until it is known which it is.
"""

from collections.abc import Sequence
from dataclasses import replace

from state_api.domain.readiness.evidence import ACTIVE_LIMIT
from state_api.domain.readiness.verdict import Assurance, Verdict


def combine_verdicts(staged: Verdict, prior_verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on the hub that is staged and on those that may still be beneath it. Ready needs all of them to be;
    the evidence is that of the staged one, the messages of the reasons name their hub."""
    verdicts = [staged, *prior_verdicts]
    active = [one for each in verdicts for one in each.active]
    verified = all(each.assurance is Assurance.VERIFIED for each in verdicts)
    count = sum(each.active_count for each in verdicts)
    retries = [each.retry_after_seconds for each in verdicts if each.retry_after_seconds is not None]
    return replace(
        staged,
        ready=all(each.ready for each in verdicts),
        assurance=Assurance.VERIFIED if verified else Assurance.EVENTS,
        reasons=tuple(dict.fromkeys(reason for each in verdicts for reason in each.reasons)),
        active=tuple(sorted(active, key=lambda one: (one.started_at, one.instance_id))[:ACTIVE_LIMIT]),
        active_count=min(count, ACTIVE_LIMIT),
        active_count_is_lower_bound=count > ACTIVE_LIMIT or any(each.active_count_is_lower_bound for each in verdicts),
        ignored_count=sum(each.ignored_count for each in verdicts),
        retry_after_seconds=max(retries, default=None),
        waived=tuple(one for each in verdicts for one in each.waived),
        warnings=tuple(dict.fromkeys(warning for each in verdicts for warning in each.warnings)),
        starts_pending=any(each.starts_pending for each in verdicts),
    )
