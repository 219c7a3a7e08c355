"""The errors that callers of the API can meet. `http/problems.py` turns each into a problem document.

- StateError
  - InvalidRequest              the request cannot be understood or makes no sense
  - NotFound
    - AppNotFound               this server has no such app
    - SlotNotFound              the app has no such slot
    - TaskHubNotFound           this server has no record of the task hub
    - WaiverNotFound            the app has no such waiver
    - ReleaseNotFound           the app has no such release
    - RouterNotFound            no router has asked under this name
    - RolloutNotFound           the app has never had a rollout
  - Refused                     the operation would break running work or another pipeline
    - StagingNotReady           the slot's task hub has not drained; carries the reasons
    - DeploymentInProgress      another run deploys into this app; carries its caller, start and run
    - TaskHubInUse              a slot of an app holds the task hub
    - TaskHubAlreadyUsed        the task hub was used before
    - TaskHubClaimed            an app has claimed the task hub: only Cleanup removes its records
    - TaskHubNotDrained         the task hub has not drained or settled; carries the reasons
    - AppNotDrained             a slot of the app has not drained; carries the reasons
    - CleanupRequired           the app has retired task hubs: only Cleanup removes their records
    - SwapMismatch              the slot or the open deployment is not what the caller names
    - SwapPending               the outcome of a swap is unknown; carries its caller, start and run
    - WrongModel                the operation is for apps of the other model
    - TooManyReleases           the app has as many releases as its policy allows
    - ReleaseExists             the version, the task hub or the address belongs to another release
    - AddressNotAllowed         the policy does not allow the address of a release
    - ReleaseInUse              routers send requests to the release
    - ReleaseNotDrained         the release has not drained; carries the reasons
    - ReleaseRemoved            the release is removed, or its removal has begun
    - ReleaseNotDeployed        the release's task hub does not exist, so its app has not started
    - RemovalPending            another run removes the release; carries its caller, start and run
    - RolloutInProgress         a rollout needs what the operation would change; carries its caller, start and state
    - RolloutEnded              the rollout has ended, or is about to
    - WeightChanged             the rollout needs another share than the confirmed one
    - ProbeNotConfigured        the app has no provider, so its task hubs cannot be read
    - Conflict                  other callers changed the app at the same time, repeatedly
  - PreconditionFailed          If-Match names another revision of the app
  - Unavailable                 not possible now; carries when to retry
    - TaskHubUnavailable        the task hub cannot be read at its provider
    - StorageUnavailable        the state storage cannot be used
      - UnsupportedSchema       the rows were written by another version of this server
    - TooManyEvents             the limit on deliveries in progress is reached
"""

from typing import Any


class StateError(Exception):
    """Base of the tree. `message` is for people. `details` are the extension members of the problem document: JSON
    values, camelCase."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def code(self) -> str:
        """The code that callers rely on: the class name. Codes do not change from 1.0 on."""
        return type(self).__name__


class InvalidRequest(StateError):
    pass


class NotFound(StateError):
    pass


class AppNotFound(NotFound):
    pass


class SlotNotFound(NotFound):
    pass


class TaskHubNotFound(NotFound):
    pass


class WaiverNotFound(NotFound):
    pass


class ReleaseNotFound(NotFound):
    pass


class RouterNotFound(NotFound):
    pass


class RolloutNotFound(NotFound):
    pass


class Refused(StateError):
    pass


class StagingNotReady(Refused):
    pass


class DeploymentInProgress(Refused):
    pass


class TaskHubInUse(Refused):
    pass


class TaskHubAlreadyUsed(Refused):
    pass


class TaskHubClaimed(Refused):
    pass


class TaskHubNotDrained(Refused):
    pass


class AppNotDrained(Refused):
    pass


class CleanupRequired(Refused):
    pass


class SwapMismatch(Refused):
    pass


class SwapPending(Refused):
    pass


class WrongModel(Refused):
    pass


class TooManyReleases(Refused):
    pass


class ReleaseExists(Refused):
    pass


class AddressNotAllowed(Refused):
    pass


class ReleaseInUse(Refused):
    pass


class ReleaseNotDrained(Refused):
    pass


class ReleaseRemoved(Refused):
    pass


class ReleaseNotDeployed(Refused):
    pass


class RemovalPending(Refused):
    pass


class RolloutInProgress(Refused):
    pass


class RolloutEnded(Refused):
    pass


class WeightChanged(Refused):
    pass


class ProbeNotConfigured(Refused):
    pass


class Conflict(Refused):
    pass


class PreconditionFailed(StateError):
    pass


class Unavailable(StateError):
    """The operation may succeed later. `retry_after`: after how many seconds to retry."""

    def __init__(self, message: str, retry_after: int = 10, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class TaskHubUnavailable(Unavailable):
    pass


class StorageUnavailable(Unavailable):
    pass


class UnsupportedSchema(StorageUnavailable):
    pass


class TooManyEvents(Unavailable):
    pass
