"""The JSON bodies of requests on releases side by side and on their routing."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from state_api.domain.names import ROUTER_PATTERN
from state_api.domain.releases.apps import Caller
from state_api.domain.releases.side_by_side.commands import RegisterReleaseCommand, RouteCommand
from state_api.domain.task_hubs.ownership import normalize_address
from state_api.http.requests import ReasonText, ReleaseAddress, ReleaseVersion, RequestModel, TaskHubName

RouterName = Annotated[str, StringConstraints(pattern=ROUTER_PATTERN)]
Percent = Annotated[int, Field(ge=1, le=100)]


class NewReleaseRequest(RequestModel):
    version: ReleaseVersion
    task_hub: TaskHubName
    address: ReleaseAddress = Field(description="The origin of the release's Function App, without a path.")
    take_over: bool = Field(default=False, description="Take over the open deployment of another run. Needs a reason.")
    reason: ReasonText | None = None

    def to_command(self, caller: Caller) -> RegisterReleaseCommand:
        """The command of PostRelease, with the address in its normal form."""
        return RegisterReleaseCommand(
            caller=caller,
            reason=self.reason,
            version=self.version,
            task_hub=self.task_hub,
            address=normalize_address(self.address),
            take_over=self.take_over,
        )


class RoutingRequest(RequestModel):
    active: ReleaseVersion = Field(description="The release that gets all requests without `split`.")
    split: Annotated[dict[ReleaseVersion, Percent], Field(min_length=1, max_length=2)] | None = Field(
        default=None,
        description="The whole percents of the active release and of one other. They sum to 100.",
    )
    reason: ReasonText | None = None

    def to_command(self, caller: Caller) -> RouteCommand:
        """The command of PutRouting."""
        return RouteCommand(caller=caller, reason=self.reason, active=self.active, split=self.split)


RemovalOutcomeName = Literal["Pending", "Done", "Failed"]
