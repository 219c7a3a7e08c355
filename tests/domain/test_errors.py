"""The errors of the API: their codes, details and kinds."""

import pytest

from state_api.domain import errors
from state_api.domain.errors import (
    AppNotFound,
    Conflict,
    DeploymentInProgress,
    NotFound,
    ProbeNotConfigured,
    Refused,
    SlotNotFound,
    StagingNotReady,
    StateError,
    StorageUnavailable,
    SwapMismatch,
    SwapPending,
    TaskHubAlreadyUsed,
    TaskHubInUse,
    TaskHubNotFound,
    TaskHubUnavailable,
    Unavailable,
    WaiverNotFound,
)


def list_error_types() -> list[type[StateError]]:
    """The error classes of the module."""
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StateError)]


@pytest.mark.parametrize("kind", list_error_types())
def test_an_error_has_a_message_and_details(kind: type[StateError]) -> None:
    error = kind("slot staging is busy", slot="staging")
    assert str(error) == error.message == "slot staging is busy"
    assert error.details == {"slot": "staging"}


@pytest.mark.parametrize("kind", list_error_types())
def test_the_code_of_an_error_is_its_name(kind: type[StateError]) -> None:
    assert kind("").code == kind.__name__


@pytest.mark.parametrize("kind", list_error_types())
def test_the_module_docstring_lists_every_error(kind: type[StateError]) -> None:
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__.split()


@pytest.mark.parametrize("kind", [AppNotFound, SlotNotFound, TaskHubNotFound, WaiverNotFound])
def test_errors_about_missing_objects_are_not_found_errors(kind: type[StateError]) -> None:
    assert issubclass(kind, NotFound)


@pytest.mark.parametrize(
    "kind",
    [
        StagingNotReady,
        DeploymentInProgress,
        TaskHubInUse,
        TaskHubAlreadyUsed,
        SwapMismatch,
        SwapPending,
        ProbeNotConfigured,
        Conflict,
    ],
)
def test_errors_about_running_work_or_other_pipelines_are_refusals(kind: type[StateError]) -> None:
    assert issubclass(kind, Refused)


@pytest.mark.parametrize("kind", [TaskHubUnavailable, StorageUnavailable])
def test_an_unavailable_storage_says_when_to_retry(kind: type[Unavailable]) -> None:
    assert kind("busy").retry_after == 10
    assert kind("busy", retry_after=5, table="Apps").retry_after == 5
    assert kind("busy", retry_after=5, table="Apps").details == {"table": "Apps"}
