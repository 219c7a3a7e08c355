"""The JSON that callers send. Unknown members are refused, so that a misspelt one is not silently ignored."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic.alias_generators import to_camel

from state_api.domain.names import APP_PATTERN, SLOT_PATTERN, STAGING, TASK_HUB_PATTERN
from state_api.domain.readiness import Policy, Retention
from state_api.domain.releases import Order, Registration, TaskHubSource

AppName = Annotated[str, StringConstraints(pattern=APP_PATTERN)]
TaskHubName = Annotated[str, StringConstraints(pattern=TASK_HUB_PATTERN)]
SlotName = Annotated[str, StringConstraints(pattern=SLOT_PATTERN)]
Version = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
ReasonText = Annotated[str, StringConstraints(max_length=1000, strip_whitespace=True)]


class _Sent(BaseModel):
    """Strict: true is not 1."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class StagingRequest(_Sent):
    task_hub: TaskHubName
    version: Version | None = None
    slot: SlotName = STAGING
    force: bool = Field(default=False, description="Stage over a task hub that is not drained. Needs a reason.")
    take_over: bool = Field(default=False, description="Take the open deployment of another run. Needs a reason.")
    reason: ReasonText | None = None

    def order(self) -> Order:
        return Order(self.task_hub, self.version, self.slot, self.force, self.take_over, self.reason)


class SwapRequest(_Sent):
    task_hub: TaskHubName = Field(description="The task hub that the caller believes it promotes.")
    slot: SlotName = STAGING


class CleanupRequest(_Sent):
    dry_run: bool = False
    delete_task_hubs: bool = False


class SlotContent(_Sent):
    task_hub: TaskHubName
    version: Version | None = None
    since: Any = Field(default=None, description="Ignored, so that an answer can be sent back.")


class RetentionRequest(_Sent):
    keep_last: Annotated[int, Field(ge=0, le=1000)] | None = None
    keep_for_hours: Annotated[int, Field(ge=0, le=8760)] | None = None

    def over(self, retention: Retention) -> Retention:
        return Retention(
            retention.keep_last if self.keep_last is None else self.keep_last,
            retention.keep_for_hours if self.keep_for_hours is None else self.keep_for_hours,
        )


class PolicyRequest(_Sent):
    """What is left out stays as it is."""

    settle_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    freshness_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    require_verification: bool | None = None
    deployment_timeout_minutes: Annotated[int, Field(ge=1, le=10_080)] | None = None
    ignore_functions: (
        Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(max_length=100)] | None
    ) = None
    retention: RetentionRequest | None = None

    def over(self, policy: Policy) -> Policy:
        """The policy with what was sent in place."""

        def chosen(name: str) -> Any:
            sent = getattr(self, name)
            return getattr(policy, name) if sent is None else sent

        return Policy(
            settle_seconds=chosen("settle_seconds"),
            freshness_seconds=chosen("freshness_seconds"),
            require_verification=chosen("require_verification"),
            deployment_timeout_minutes=chosen("deployment_timeout_minutes"),
            ignore_functions=tuple(chosen("ignore_functions")),
            retention=self.retention.over(policy.retention) if self.retention else policy.retention,
        )


class TaskHubSourceModel(_Sent):
    provider: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9]{0,39}$")]
    connection: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_:.-]{0,126}$")] = Field(
        description="The name of the setting that holds the connection, as in host.json; never the connection itself."
    )


class AppRequest(_Sent):
    """What is left out stays as it is. The members that only answers have are ignored, so that an answer can be
    changed and sent back."""

    app: str | None = None
    slots: Annotated[dict[SlotName, SlotContent | None], Field(max_length=20)] = Field(default_factory=dict)
    policy: PolicyRequest | None = None
    task_hubs: TaskHubSourceModel | None = None
    deployment: Any = None
    retired: Any = None
    updated_at: Any = None
    updated_by: Any = None

    @field_validator("slots")
    @classmethod
    def _slots_differ(cls, slots: Mapping[str, Any]) -> Mapping[str, Any]:
        if len({name.lower() for name in slots}) < len(slots):
            raise ValueError("a slot is named twice; slot names are case-insensitive")
        return slots

    def registration(self) -> Registration:
        sent = self.task_hubs
        return Registration(
            slots={name: (held.task_hub, held.version) if held else None for name, held in self.slots.items()},
            policy=(self.policy or PolicyRequest()).over,
            task_hubs=TaskHubSource(sent.provider, sent.connection) if sent else None,
            clear_task_hubs=sent is None and "task_hubs" in self.model_fields_set,
        )
