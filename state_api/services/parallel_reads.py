"""Reads the records of a slot's task hubs while the app is being read, which saves a round trip, and looks up what is
active, which saves another one.

Only the app says which task hubs the slot carries. So the reads follow the last question about the slot, and count only
if the app has not changed since.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from state_api.domain.names import AppKey, app_key
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.plan import ProbeOutcome, RecordedState
from state_api.domain.readiness.requirements import VerificationMode
from state_api.domain.releases.apps import App, ProviderConfig
from state_api.services.early_look_ups import EarlyLookUp, InstanceLookUps
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
class _LastQuestion:
    """The revision of the app, and what the last question about a slot read and looked up."""

    app_revision: int
    read_records: tuple[_RecordsKey, ...]
    look_ups: tuple[_LookUp, ...]


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
        if last_question is not None and not looks_up:
            reads = QuestionReads(self._apps, self._instances, self._verifier, replace(last_question, look_ups=()))
        else:
            reads = QuestionReads(self._apps, self._instances, self._verifier, last_question)
        try:
            yield reads
        finally:
            await reads.close()
            self._last_questions.pop(key, None)
            if reads.app is not None and reads.read_keys:
                if len(self._last_questions) >= MAX_REMEMBERED_SLOTS:
                    # The slot that was asked about least recently comes first.
                    del self._last_questions[next(iter(self._last_questions))]
                look_ups = tuple(reads.list_active_look_ups())
                if not looks_up and last_question is not None and last_question.app_revision == reads.app.revision:
                    # A question by events looks nothing up, and says nothing about what the next one looks up.
                    look_ups = last_question.look_ups
                self._last_questions[key] = _LastQuestion(reads.app.revision, tuple(reads.read_keys), look_ups)


class QuestionReads:
    """The reads for one question. What the last question read and looked up is read while the app is, and used once.

    Safety: both reads begin after the question. If the app still has the revision of the last question, it had that
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
        self._look_ups: list[tuple[ProbeRequest, InstanceLookUps]] = []
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
        self.app = await self._apps.get(name)
        if last_question is not None and (self.app is None or self.app.revision != last_question.app_revision):
            await self.close()
        return self.app

    async def read_records(self, task_hub: str, exemptions: Exemptions) -> RecordedState:
        """What is recorded of a task hub: from a read that has begun together with that of the app, if there is one."""
        records = await self._take_early_read(task_hub, exemptions)
        return (records or await self._instances.read_records(task_hub, exemptions)).state

    async def probe_for_verdict(self, request: ProbeRequest) -> ProbeOutcome:
        """Verify a task hub for a verdict, with the records from an early read and an early look-up, if there are."""
        records = await self._take_early_read(request.task_hub, request.exemptions)
        look_ups = self._verifier.new_look_ups(self._early_look_ups.get(request.task_hub))
        self._look_ups.append((request, look_ups))
        return await self._verifier.probe_for_verdict(request, records, look_ups)

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
