"""The JSON bodies of requests, and their conversion to domain values. Unknown members are refused, so that a misspelt
one is not ignored."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from state_api.domain.errors import InvalidRequest
from state_api.domain.instants import Instant, parse_instant
from state_api.domain.names import (
    ADDRESS_PATTERN,
    ADDRESS_POLICY_PATTERN,
    APP_PATTERN,
    FUNCTION_PATTERN,
    MAX_INSTANCE_ID_LENGTH,
    SLOT_PATTERN,
    STAGING,
    TASK_HUB_PATTERN,
    VERSION_PATTERN,
)
from state_api.domain.readiness.policy import Policy, QuiesceOrder, RetentionPolicy
from state_api.domain.releases.apps import Caller, ProviderConfig
from state_api.domain.releases.commands import (
    CleanupCommand,
    RegisterCommand,
    ReleaseAssignment,
    SlotAssignment,
    StageCommand,
    SwapCommand,
    SwapOutcome,
    WaiveCommand,
)
from state_api.domain.releases.side_by_side.releases import MAX_RELEASES, Model
from state_api.domain.task_hubs.ownership import normalize_address

AppName = Annotated[str, StringConstraints(pattern=APP_PATTERN)]
TaskHubName = Annotated[str, StringConstraints(pattern=TASK_HUB_PATTERN)]
SlotName = Annotated[str, StringConstraints(pattern=SLOT_PATTERN)]
Version = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
ReleaseVersion = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]
ReleaseAddress = Annotated[str, StringConstraints(pattern=ADDRESS_PATTERN)]
ReasonText = Annotated[str, StringConstraints(max_length=1000, strip_whitespace=True)]


class RequestModel(BaseModel):
    """A request body, or a part of one. Its members are camelCase in JSON. Types are strict: `1` is no boolean."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class StagingRequest(RequestModel):
    task_hub: TaskHubName
    version: Version | None = None
    slot: SlotName = STAGING
    force: bool = Field(
        default=False, description="Stage although the present task hub is not drained. Needs a reason."
    )
    take_over: bool = Field(default=False, description="Take over the open deployment of another run. Needs a reason.")
    reason: ReasonText | None = None

    def to_command(self, caller: Caller) -> StageCommand:
        """The command of PostStaging, for this caller."""
        return StageCommand(
            caller=caller,
            reason=self.reason,
            task_hub=self.task_hub,
            version=self.version,
            slot=self.slot,
            force=self.force,
            take_over=self.take_over,
        )


def _remove_default(schema: JsonDict) -> None:
    """Remove the default from a JSON schema: without the member, the operation does something else."""
    del schema["default"]


class SwapRequest(RequestModel):
    task_hub: TaskHubName = Field(
        description="The task hub to promote. The swap is refused if the slot has another one."
    )
    slot: SlotName = STAGING
    outcome: Literal["Pending", "Done", "Failed"] = Field(
        default="Done",
        description="The state of the swap in Azure: about to begin, succeeded, or failed. Without it, the swap is "
        "recorded in one step.",
        json_schema_extra=_remove_default,
    )
    rollback: bool = Field(
        default=False, description="Refuse the swap unless the task hub has been in production before."
    )

    def to_command(self, caller: Caller, *, is_conditional: bool) -> SwapCommand:
        """The command of PostSwap. Without `outcome` in the request, its outcome is None: the swap is recorded in one
        step."""
        outcome = SwapOutcome(self.outcome) if "outcome" in self.model_fields_set else None
        return SwapCommand(
            caller=caller,
            task_hub=self.task_hub,
            slot=self.slot,
            outcome=outcome,
            rollback=self.rollback,
            is_conditional=is_conditional,
        )


class CleanupRequest(RequestModel):
    dry_run: bool = Field(default=False, description="Report what would be removed, and remove nothing.")
    delete_task_hubs: bool = Field(
        default=False, description="Also delete the task hubs at their provider: tables, queues, containers."
    )

    def to_command(self, caller: Caller) -> CleanupCommand:
        """The command of Cleanup, for this caller."""
        return CleanupCommand(caller=caller, dry_run=self.dry_run, delete_task_hubs=self.delete_task_hubs)


InstanceId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_INSTANCE_ID_LENGTH)]


class WaiverRequest(RequestModel):
    task_hub: TaskHubName
    instance_id: InstanceId | None = None
    unexplained_messages: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Instead of instanceId: the number of invisible, unexplained messages that do not block.",
    )
    reason: ReasonText = Field(description="Why this may be ignored. The audit log shows it.")
    expires_at: str = Field(
        description="RFC 3339, at most 90 days from now.", json_schema_extra={"format": "date-time"}, max_length=64
    )

    def to_command(self, caller: Caller) -> WaiveCommand:
        """The command of PostWaiver. Raises InvalidRequest unless the waiver is for either one instance or messages,
        and its time is valid."""
        try:
            expires_at = parse_instant(self.expires_at)
        except ValueError:
            raise InvalidRequest("expiresAt must be an RFC 3339 time, such as 2027-01-31T12:00:00Z") from None
        if (self.instance_id is None) == (self.unexplained_messages is None):
            raise InvalidRequest("a waiver is for one instance or for messages: set instanceId or unexplainedMessages")
        return WaiveCommand(
            caller=caller,
            reason=self.reason,
            task_hub=self.task_hub,
            expires_at=expires_at,
            instance_id=self.instance_id,
            unexplained_messages=self.unexplained_messages or 0,
        )


class SlotRequest(RequestModel):
    task_hub: TaskHubName
    version: Version | None = None
    since: Any = Field(default=None, description="Ignored, so that a response can be sent back.")
    promoted: Any = Field(default=None, description="Ignored, so that a response can be sent back.")
    prior_task_hubs: Any = Field(default=None, description="Ignored, so that a response can be sent back.")


class ReleaseRequest(RequestModel):
    task_hub: TaskHubName
    address: ReleaseAddress
    state: Any = Field(default=None, description="Ignored, so that a response can be sent back.")
    traffic: Any = Field(default=None, description="Ignored, so that a response can be sent back.")
    registered_at: Any = Field(default=None, description="Ignored, so that a response can be sent back.")
    adopted: Any = Field(default=None, description="Ignored, so that a response can be sent back.")
    first_traffic_at: Any = Field(default=None, description="Ignored, so that a response can be sent back.")
    last_traffic_at: Any = Field(default=None, description="Ignored, so that a response can be sent back.")
    sticky_until: Any = Field(default=None, description="Ignored, so that a response can be sent back.")
    removal: Any = Field(default=None, description="Ignored, so that a response can be sent back.")


class RetentionRequest(RequestModel):
    keep_last: Annotated[int, Field(ge=0, le=1000)] | None = None
    keep_for_hours: Annotated[int, Field(ge=0, le=8760)] | None = None

    def apply_to(self, retention: RetentionPolicy) -> RetentionPolicy:
        """The retention with the members of the request replaced."""
        return RetentionPolicy(**_replace_members(self, retention, RetentionPolicy()))


class PolicyRequest(RequestModel):
    """A change of the policy. Omitted members stay as they are, and null restores the default."""

    settle_seconds: Annotated[int, Field(ge=0, le=3600)] | None = None
    freshness_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    require_verification: bool | None = None
    deployment_timeout_minutes: Annotated[int, Field(ge=1, le=10_080)] | None = None
    ignore_functions: (
        Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(max_length=100)] | None
    ) = None
    retention: RetentionRequest | None = None
    missing_task_hub_is_drained: bool | None = None
    message_visibility_seconds: Annotated[int, Field(ge=60, le=604_800)] | None = None
    ignore_messages: bool | None = None
    max_releases: Annotated[int, Field(ge=1, le=MAX_RELEASES)] | None = Field(
        default=None, description="Null removes the limit."
    )
    address_pattern: Annotated[str, StringConstraints(pattern=ADDRESS_POLICY_PATTERN)] | None = Field(
        default=None, description="Patterns separated by blanks. Null allows every address."
    )
    sticky_after_promotion: bool | None = None
    quiesce_functions: (
        Annotated[list[Annotated[str, StringConstraints(pattern=FUNCTION_PATTERN)]], Field(max_length=100)] | None
    ) = None
    quiesce_order: Literal["gap", "overlap"] | None = None

    def apply_to(self, policy: Policy) -> Policy:
        """The policy with the members of the request replaced."""
        members = _replace_members(self, policy, Policy())
        members["retention"] = self.retention.apply_to(policy.retention) if self.retention else members["retention"]
        for name in ("ignore_functions", "quiesce_functions"):
            members[name] = tuple(members[name])
        return Policy(**members | {"quiesce_order": QuiesceOrder(members["quiesce_order"])})


def _replace_members(request: BaseModel, current: Any, defaults: Any) -> dict[str, Any]:
    """The members of a policy after a request: those that it sets, the default for a null, and the present ones
    otherwise."""

    def choose(name: str) -> Any:
        if name not in request.model_fields_set:
            return getattr(current, name)
        requested = getattr(request, name)
        return getattr(defaults, name) if requested is None else requested

    return {name: choose(name) for name in type(request).model_fields}


SettingName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_:.-]{0,126}$")]


class ProviderConfigRequest(RequestModel):
    provider: Literal["azureStorage", "scheduler", "managementApi"]
    connection: SettingName = Field(
        description="The name of the setting with the connection, as in host.json; never the connection itself."
    )
    tracking_connection: SettingName | None = Field(
        default=None,
        description="For azureStorage with a separate tracking store: the setting with the connection of that store.",
    )
    tracking_prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9]{0,53}$")] | None = Field(
        default=None, description="The prefix of the tables in the tracking store; by default DurableTask."
    )

    def to_provider_config(self) -> ProviderConfig:
        """The provider configuration of the request. Raises InvalidRequest if a tracking store is incomplete or not
        possible with the provider."""
        has_tracking_store = self.tracking_connection is not None or self.tracking_prefix is not None
        if has_tracking_store and self.provider != "azureStorage":
            raise InvalidRequest(
                f"the provider {self.provider} has no tracking store: leave out trackingConnection and trackingPrefix"
            )
        if has_tracking_store and self.tracking_connection is None:
            raise InvalidRequest("trackingPrefix needs trackingConnection: set both, or leave out both")
        return ProviderConfig(
            provider=self.provider,
            connection=self.connection,
            tracking_connection=self.tracking_connection,
            tracking_prefix=self.tracking_prefix,
        )


class AppRequest(RequestModel):
    """Omitted members stay as they are. Members that only responses have are ignored, so that the response of GetApp
    can be changed and sent back."""

    app: str | None = None
    model: Literal["slots", "sideBySide"] | None = Field(
        default=None, description="Fixed while the app has a release or a task hub in a slot."
    )
    slots: Annotated[dict[SlotName, SlotRequest | None], Field(max_length=20)] = Field(default_factory=dict)
    releases: Annotated[dict[ReleaseVersion, ReleaseRequest], Field(max_length=MAX_RELEASES)] = Field(
        default_factory=dict,
        description="Existing releases to adopt, by version, or to correct. Releases that are not named stay.",
    )
    policy: PolicyRequest | None = None
    task_hubs: ProviderConfigRequest | None = None
    adopt_task_hubs: Annotated[list[TaskHubName], Field(max_length=100)] = Field(
        default_factory=list,
        description="Task hubs of the app, in slots or retired, whose ownership is not proven. The caller declares "
        "that they belong to this app at the provider in `taskHubs`, so Cleanup may delete them once they are drained.",
    )
    deployment: Any = None
    pending_swap: Any = None
    removed_releases: Any = None
    routing: Any = None
    rollout: Any = None
    retired: Any = None
    waivers: Any = None
    updated_at: Any = None
    updated_by: Any = None

    @field_validator("slots")
    @classmethod
    def _check_slots_are_distinct(cls, slots: Mapping[str, Any]) -> Mapping[str, Any]:
        if len({name.lower() for name in slots}) < len(slots):
            raise ValueError("a slot occurs twice; slot names are compared without case")
        return slots

    def to_command(self, caller: Caller) -> RegisterCommand:
        """The command of PutApp. Raises InvalidRequest if a tracking store is incomplete or not possible with the
        provider."""
        provider_config = self.task_hubs
        return RegisterCommand(
            caller=caller,
            slots={
                name: SlotAssignment(slot.task_hub, slot.version) if slot else None for name, slot in self.slots.items()
            },
            update_policy=(self.policy or PolicyRequest()).apply_to,
            provider_config=provider_config.to_provider_config() if provider_config else None,
            clear_provider_config=provider_config is None and "task_hubs" in self.model_fields_set,
            adopt_task_hubs=tuple(self.adopt_task_hubs),
            model=None if self.model is None else Model(self.model),
            releases={
                version: ReleaseAssignment(release.task_hub, normalize_address(release.address))
                for version, release in self.releases.items()
            },
        )


def parse_time_or_day(name: str, text: str) -> Instant:
    """The time in the query parameter `name`: an RFC 3339 time, or the beginning of a day in UTC. Raises
    InvalidRequest."""
    try:
        return parse_instant(f"{text}T00:00:00Z" if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII) else text)
    except ValueError:
        raise InvalidRequest(
            f"{name} must be a day such as 2026-11-30 or an RFC 3339 time such as 2026-11-30T12:00:00Z"
        ) from None
