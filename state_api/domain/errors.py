"""Everything that can go wrong, as callers know it. `http/problems.py` turns each into a problem document.

StateError
├── InvalidRequest            what was asked cannot be understood or makes no sense
├── NotFound
│   ├── AppNotFound           no such app on this server
│   ├── SlotNotFound          the app has no such slot
│   ├── TaskHubNotFound       nothing was ever recorded for, or held by, this task hub
│   └── WaiverNotFound        the app has no such waiver
├── Refused                   understood, but it would break running work or another pipeline
│   ├── StagingNotReady       the slot's task hub is not drained; carries the reasons
│   ├── DeploymentInProgress  another run deploys into this app; carries who, since when, which run
│   ├── TaskHubInUse          a slot of an app holds the task hub
│   ├── TaskHubAlreadyUsed    the task hub was used before
│   ├── TaskHubClaimed        an app has claimed the task hub, so only Cleanup removes its records
│   ├── TaskHubNotDrained     the task hub has active instances, or had until a moment ago; carries the reasons
│   ├── AppNotDrained         a slot of the app is not drained; carries the reasons
│   ├── CleanupRequired       the app has retired task hubs whose records only Cleanup removes
│   ├── SwapMismatch          the slot does not hold what the caller believes
│   ├── SwapPending           a swap was begun and nobody has said how it went; carries who, since when, which run
│   ├── ProbeNotConfigured    nothing says where the app's task hubs live, so they cannot be read
│   └── Conflict              somebody else changed the app at the same time, again and again
├── PreconditionFailed        If-Match names another version of the app
└── Unavailable               not now; carries when to try again
    ├── TaskHubUnavailable     the task hub's own storage cannot be read
    ├── StorageUnavailable    the state storage cannot be used
    │   └── UnsupportedSchema another version of this server wrote the rows that are needed
    └── TooManyEvents         more deliveries are in progress than there is capacity for
"""

from typing import Any


class StateError(Exception):
    """Base of the tree. `details` are the extension members of the problem document: JSON values, camelCase."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def code(self) -> str:
        """The stable code that callers rely on: the class name."""
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


class ProbeNotConfigured(Refused):
    pass


class Conflict(Refused):
    pass


class PreconditionFailed(StateError):
    pass


class Unavailable(StateError):
    """`retry_after` is in seconds."""

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
