"""Ways to break the server, in memory and for a while, to see whether the simulator notices."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pytest

from state_api.domain import lifecycle, readiness, sightings
from state_api.domain.evidence import Activity, Evidence, ProbeResult, ProbeStatus
from state_api.domain.healing import Standing, ended, standing
from state_api.domain.instants import TICKS_PER_SECOND, Instant, seconds
from state_api.domain.lifecycle import Instance, Started
from state_api.domain.messages import MessageEvidence, QueueSnapshot
from state_api.domain.readiness import Policy
from state_api.domain.scans import Scan
from state_api.domain.sightings import Sighting
from state_api.services import lookups, scanning, verification
from state_api.services.questions import Checked, Question, Verify, answers
from state_api.services.verification import Verifier
from state_api.taskhubs import azure_storage
from state_api.taskhubs.azure_storage import AzureStorageBackend
from state_api.taskhubs.backend import SourcePage

Mutation = Callable[[pytest.MonkeyPatch], None]


def one_pass(patch: pytest.MonkeyPatch) -> None:
    """A scan is finished after the first pass, whatever changed meanwhile."""
    patch.setattr(Scan, "finished", lambda scan: not scan.cursors)


def never_reopened(patch: pytest.MonkeyPatch) -> None:
    """What a probe finds active is not recorded."""
    patch.setattr(scanning, "missed", lambda known, sighting, now: None)


def overtaken_probe(patch: pytest.MonkeyPatch) -> None:
    """A probe counts although an event was recorded after it began."""
    unheard = _accept_overtaken_in_service(patch)
    good = readiness._probe_is_good

    def is_good(evidence: Evidence, policy: Policy, now: Instant) -> bool:
        return good(replace(evidence, activity=unheard(evidence.activity)), policy, now)

    patch.setattr(readiness, "_probe_is_good", is_good)


def overtaken_probe_in_service_only(patch: pytest.MonkeyPatch) -> None:
    """The same where it is decided whether to scan again, while the verdict still minds."""
    _accept_overtaken_in_service(patch)


def _accept_overtaken_in_service(patch: pytest.MonkeyPatch) -> Callable[[Activity], Activity]:
    def unheard(activity: Activity) -> Activity:
        return replace(activity, last_recorded_at=None)

    def accepted(
        result: ProbeResult | None, question: Question, activity: Activity, now: Instant, *, for_verdict: bool
    ) -> bool:
        return answers(result, question, unheard(activity), now, for_verdict=for_verdict)

    patch.setattr(scanning, "answers", accepted)
    patch.setattr(verification, "answers", accepted)
    return unheard


def entities_in_scans(patch: pytest.MonkeyPatch) -> None:
    """Scans count entities as orchestrations."""
    _filter(patch, f"({azure_storage._CHANGED} or not ({azure_storage._ENDED}))")
    patch.setattr(sightings, "is_entity", lambda instance_id: False)


def entities_in_records(patch: pytest.MonkeyPatch) -> None:
    """Records count entities as orchestrations."""
    patch.setattr(lifecycle, "is_entity", lambda instance_id: False)


def unconfirmed_is_ended(patch: pytest.MonkeyPatch) -> None:
    """A start that the task hub does not show yet is taken for ended."""

    def judged(started: Started, sighting: Sighting | None) -> Standing:
        known = standing(started, sighting)
        return Standing.ENDED if known is Standing.UNCONFIRMED else known

    patch.setattr(lookups, "standing", judged)


def queues_unread(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks into the control queues."""

    async def snapshot(backend: AzureStorageBackend, task_hub: str) -> QueueSnapshot:
        return QueueSnapshot()

    patch.setattr(AzureStorageBackend, "snapshot", snapshot)


def first_page_only(patch: pytest.MonkeyPatch) -> None:
    """A scan reads the first page."""
    _pages(patch, lambda cursor: True)


def first_page_of_each_range_only(patch: pytest.MonkeyPatch) -> None:
    """A scan that is split in ranges reads the first page of each."""
    _pages(patch, lambda cursor: azure_storage._read_cursor(cursor)[0] is not None)


def _pages(patch: pytest.MonkeyPatch, cut: Callable[[str], bool]) -> None:
    read = AzureStorageBackend.page

    async def page(backend: AzureStorageBackend, task_hub: str, since: Instant, cursor: str) -> SourcePage:
        whole = await read(backend, task_hub, since, cursor)
        return replace(whole, cursors=()) if cut(cursor) else whole

    patch.setattr(AzureStorageBackend, "page", page)


def pending_left_out(patch: pytest.MonkeyPatch) -> None:
    """Scans do not ask for Pending."""
    _leave_out(patch, "Pending")


def suspended_left_out(patch: pytest.MonkeyPatch) -> None:
    """Scans do not ask for Suspended."""
    _leave_out(patch, "Suspended")


def continued_as_new_left_out(patch: pytest.MonkeyPatch) -> None:
    """Scans do not ask for ContinuedAsNew."""
    _leave_out(patch, "ContinuedAsNew")


def _leave_out(patch: pytest.MonkeyPatch, status: str) -> None:
    """Also not for rows of it that were written during the scan."""
    _filter(patch, f"({azure_storage._WANTED} and RuntimeStatus ne '{status}')")


def _filter(patch: pytest.MonkeyPatch, wanted: str) -> None:
    patch.setattr(azure_storage, "_WANTED", wanted)
    patch.setattr(azure_storage, "_RANGE", f"PartitionKey ge @from and PartitionKey lt @to and {wanted}")
    patch.setattr(azure_storage, "_LAST_RANGE", f"PartitionKey ge @from and {wanted}")


def changes_unseen(patch: pytest.MonkeyPatch) -> None:
    """Scans do not look back: what changes while they read goes unseen."""
    patch.setattr(azure_storage, "_MARGIN", -seconds(60))


def ended_now(patch: pytest.MonkeyPatch) -> None:
    """An end that a probe has seen is placed at the present moment."""

    def placed(instance: Instance, sighting: Sighting | None) -> Instance:
        correction = ended(instance, sighting)
        assert correction.finished is not None
        now = Instant(int(time.time() * TICKS_PER_SECOND))
        return replace(correction, finished=replace(correction.finished, at=max(correction.finished.at, now)))

    patch.setattr(lookups, "ended", placed)


def never_closed(patch: pytest.MonkeyPatch) -> None:
    """An end that a probe has seen is not believed."""

    def judged(started: Started, sighting: Sighting | None) -> Standing:
        known = standing(started, sighting)
        return Standing.ACTIVE if known is Standing.ENDED else known

    patch.setattr(lookups, "standing", judged)


def began_at_its_end(patch: pytest.MonkeyPatch) -> None:
    """A scan claims to tell of the moment when it ended."""
    result = Scan.result

    def late(
        scan: Scan,
        status: ProbeStatus,
        provider: str,
        ended_at: Instant,
        message: str = "",
        messages: MessageEvidence | None = None,
    ) -> ProbeResult:
        return replace(result(scan, status, provider, ended_at, message, messages), began_at=ended_at)

    patch.setattr(Scan, "result", late)


def fresh_is_cached(patch: pytest.MonkeyPatch) -> None:
    """verify=fresh is content with an earlier probe."""
    check = Verifier.check

    async def cached(verifier: Verifier, question: Question) -> Checked:
        how = Verify.CACHED if question.verify is Verify.FRESH else question.verify
        return await check(verifier, replace(question, verify=how))

    patch.setattr(Verifier, "check", cached)


def records_before_the_scan(patch: pytest.MonkeyPatch) -> None:
    """What is recorded while a hub is read does not show in the verdict."""
    check = Verifier.check

    async def early(verifier: Verifier, question: Question) -> Checked:
        records = await verifier.records(question.task_hub, question.exemptions)
        return replace(await check(verifier, question), records=records)

    patch.setattr(Verifier, "check", early)


MUTATIONS: Mapping[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        one_pass,
        never_reopened,
        overtaken_probe,
        overtaken_probe_in_service_only,
        entities_in_scans,
        entities_in_records,
        unconfirmed_is_ended,
        queues_unread,
        first_page_only,
        first_page_of_each_range_only,
        pending_left_out,
        suspended_left_out,
        continued_as_new_left_out,
        changes_unseen,
        ended_now,
        never_closed,
        began_at_its_end,
        fresh_is_cached,
        records_before_the_scan,
    )
}


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """The server broken in one way until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        MUTATIONS[name](patch)
        yield
