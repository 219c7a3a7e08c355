"""Reads the records of a slot's task hubs while the app is being read, which saves a round trip. Looks up what is
active, or begins the scan of what has drained, which saves another one.

Only the app says which task hubs the slot carries. So the reads follow the last question about the slot, and count only
if the app has not changed since.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from state_api.domain.names import AppKey, app_key
from state_api.domain.readiness.evidence import ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import ProbeOutcome, RecordedState
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.releases.apps import App, ProviderConfig
from state_api.services.early_look_ups import EarlyLookUp, InstanceLookUps
from state_api.services.early_scans import EarlyScan
from state_api.services.ports import Apps, Instances, TaskHubRecords
from state_api.services.probe_requests import ProbeRequest
from state_api.services.slot_status import StatusQuestion
from state_api.services.verification import Verifier

MAX_REMEMBERED_SLOTS = 1_000
"""Slots whose last question is remembered, about 1 kB each. Without it, the records are read after the app."""

_SlotKey = tuple[AppKey, str]
_RecordsKey = tuple[str, Exemptions]


@dataclass(frozen=True, slots=True)
class _LookUp:
    """Where the last question looked up instances, and which of them were active."""

    provider_config: ProviderConfig
    task_hub: str
    instance_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Drained:
    """A task hub in whose records nothing was active, and in whose control queues no message was. `change_token` is
    that of the records."""

    provider_config: ProviderConfig
    records_key: _RecordsKey
    change_token: str


@dataclass(frozen=True, slots=True)
class _LastQuestion:
    """The revision of the app, and what the last question about a slot read, looked up, and found drained."""

    app_revision: int
    read_records: tuple[_RecordsKey, ...]
    look_ups: tuple[_LookUp, ...] = ()
    drained: tuple[_Drained, ...] = ()


class ParallelReads:
    """The reads of requests that ask once. It remembers the last question about each slot."""

    def __init__(self, apps: Apps, instances: Instances, verifier: Verifier) -> None:
        self._apps = apps
        self._instances = instances
        self._verifier = verifier
        self._last_questions: dict[_SlotKey, _LastQuestion] = {}

    @asynccontextmanager
    async def begin(self, question: StatusQuestion) -> AsyncIterator["QuestionReads"]:
        """The reads for this question. At its end, what it has read is remembered, so that the next question about the
        slot reads it at once."""
        key = (app_key(question.app_name), question.slot_name.lower())
        last_question = self._last_questions.get(key)
        looks_up = question.mode is not VerificationMode.NONE
        remembered = last_question
        if remembered is not None and not looks_up:
            remembered = replace(remembered, look_ups=(), drained=())
        elif remembered is not None and question.mode is not VerificationMode.FRESH:
            # A stored result may be fresh enough, so that nothing is read.
            remembered = replace(remembered, drained=())
        reads = QuestionReads(self._apps, self._instances, self._verifier, remembered)
        try:
            yield reads
        finally:
            await reads.close()
            self._last_questions.pop(key, None)
            if reads.app is not None and reads.read_keys:
                if len(self._last_questions) >= MAX_REMEMBERED_SLOTS:
                    # The slot that was asked about least recently comes first.
                    del self._last_questions[next(iter(self._last_questions))]
                look_ups, drained = tuple(reads.list_active_look_ups()), tuple(reads.drained)
                if not looks_up and last_question is not None and last_question.app_revision == reads.app.revision:
                    # A question by events reads no task hub, and says nothing about what the next one reads.
                    look_ups, drained = last_question.look_ups, last_question.drained
                read_keys = tuple(reads.read_keys)
                self._last_questions[key] = _LastQuestion(reads.app.revision, read_keys, look_ups, drained)


class QuestionReads:
    """The reads for one question. What the last question read is read while the app is, and used once.

    Safety: these reads begin after the question. If the app still has the revision of the last question, it had that
    revision when the records were read. So what they show is what they would have shown after a read of the app at that
    moment. With any other revision they are not used, because the slot may have carried another task hub.
    """

    def __init__(
        self, apps: Apps, instances: Instances, verifier: Verifier, last_question: _LastQuestion | None
    ) -> None:
        self._apps = apps
        self._instances = instances
        self._verifier = verifier
        self._last_question = last_question
        self._early_reads: dict[_RecordsKey, asyncio.Task[TaskHubRecords]] = {}
        self._early_look_ups: dict[str, EarlyLookUp] = {}
        self._early_scans: dict[_RecordsKey, EarlyScan] = {}
        self._look_ups: list[tuple[ProbeRequest, InstanceLookUps]] = []
        self.drained: list[_Drained] = []
        """What this question found drained."""
        self.app: App | None = None
        self.read_keys: dict[_RecordsKey, None] = {}
        """The records that were read for this question, in order."""

    async def read_app(self, name: str) -> App | None:
        """The app, or None if there is none or it is deleted. Reads at the same time what the last question read, and
        cancels these reads if the app has changed since then."""
        last_question = self._last_question
        if last_question is not None:
            self._early_reads = {
                key: asyncio.create_task(self._instances.read_records(*key)) for key in last_question.read_records
            }
            self._early_look_ups = {
                look_up.task_hub: self._verifier.begin_look_up(
                    look_up.provider_config, look_up.task_hub, look_up.instance_ids
                )
                for look_up in last_question.look_ups
            }
            self._early_scans = {
                drained.records_key: self._verifier.begin_scan(
                    drained.provider_config, drained.records_key[0], drained.change_token
                )
                for drained in last_question.drained
            }
        self.app = await self._apps.get(name)
        if last_question is not None and (self.app is None or self.app.revision != last_question.app_revision):
            await self.close()
        return self.app

    async def read_records(self, task_hub: str, exemptions: Exemptions) -> RecordedState:
        """What is recorded of a task hub: from a read that has begun together with that of the app, if there is one."""
        records = await self._take_early_read(task_hub, exemptions)
        return (records or await self._instances.read_records(task_hub, exemptions)).state

    async def probe_for_verdict(self, request: ProbeRequest) -> ProbeOutcome:
        """Verify a task hub for a verdict, with what was read early, if there is something."""
        records = await self._take_early_read(request.task_hub, request.exemptions)
        look_ups = self._verifier.new_look_ups(self._early_look_ups.get(request.task_hub))
        self._look_ups.append((request, look_ups))
        records_key = (request.task_hub, request.exemptions)
        early_scan = self._early_scans.get(records_key)
        outcome = await self._verifier.probe_for_verdict(request, records, look_ups, early_scan)
        if (records_state := outcome.recorded_state) is not None and _is_drained(outcome):
            self.drained.append(_Drained(request.provider_config, records_key, records_state.change_token))
        return outcome

    def list_active_look_ups(self) -> list[_LookUp]:
        """The look-ups of this question that showed all of their instances active."""
        return [
            _LookUp(request.provider_config, request.task_hub, look_ups.active_ids)
            for request, look_ups in self._look_ups
            if look_ups.active_ids
        ]

    async def close(self) -> None:
        """Cancel the reads that were not used."""
        unused_look_ups, self._early_look_ups = self._early_look_ups, {}
        for look_up in unused_look_ups.values():
            await look_up.cancel()
        unused_scans, self._early_scans = self._early_scans, {}
        for scan in unused_scans.values():
            await scan.cancel()
        unused, self._early_reads = self._early_reads, {}
        for read in unused.values():
            read.cancel()
        await asyncio.gather(*unused.values(), return_exceptions=True)

    async def _take_early_read(self, task_hub: str, exemptions: Exemptions) -> TaskHubRecords | None:
        """The records that were read while the app was; None if there are none, or if they were used before."""
        key = (task_hub, exemptions)
        self.read_keys[key] = None
        read = self._early_reads.pop(key, None)
        return await read if read is not None else None


def _is_drained(outcome: ProbeOutcome) -> bool:
    """Whether nothing is active, and no message is in the control queues."""
    records, result = outcome.recorded_state, outcome.result
    if records is None or records.activity.active or result is None or result.status is not ProbeStatus.COMPLETE:
        return False
    messages = result.messages
    return not result.found_blocking and messages is not None and messages.visible + messages.invisible == 0
