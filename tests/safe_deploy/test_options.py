"""Options of the commands, and the variables that stand for them."""

import pytest

from safe_deploy.errors import ExitCode
from tests.builders import event
from tests.conftest import new_hub
from tests.safe_deploy.place import RUN, Place
from tests.safe_deploy.processes import safe_deploy


def test_options_that_are_required_are_named(place: Place) -> None:
    for option in ("SERVER", "APP"):
        given = {name: value for name, value in place.given().items() if name != f"SAFE_DEPLOY_{option}"}
        ended = safe_deploy("status", given=given)
        assert ended.code == ExitCode.USAGE
        assert f"SAFE_DEPLOY_{option}" in ended.stderr


def test_options_can_be_given_by_variables(place: Place) -> None:
    place.register()
    place.publish(event(place.hub))
    many = {"SLOT": "production", "WAIT": "true", "TIMEOUT": "0", "INTERVAL": "2", "VERIFY": "none", "OUTPUT": "json"}
    ended = place.call("status", **{f"SAFE_DEPLOY_{name}": value for name, value in many.items()})
    assert ended.code == ExitCode.TIMED_OUT
    assert ended.json()["slot"] == "production"


def test_stage_takes_its_options_from_variables(place: Place) -> None:
    place.register()
    place.publish(event(place.stage(new_hub(), 1)))
    hub = new_hub()
    many = {
        "TASK_HUB": hub,
        "VERSION": "3",
        "FORCE": "1",
        "TAKE_OVER": "yes",
        "REASON": "run 1 is dead",
        "ACTOR": "anna",
        "RUN_URL": f"{RUN}2",
    }
    ended = place.call("stage", **{f"SAFE_DEPLOY_{name}": value for name, value in many.items()})
    assert ended.code == 0, ended
    newest = place.history()[0]
    assert (newest["by"], newest["runUrl"], newest["reason"]) == ("anna", f"{RUN}2", "run 1 is dead")
    assert newest["details"]["version"] == "3"
    assert newest["details"]["takenOverFrom"]["runUrl"] == f"{RUN}1"


def test_cleanup_takes_its_options_from_variables(place: Place) -> None:
    place.register(taskHubs={"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"})
    ended = place.call(
        "cleanup", SAFE_DEPLOY_DRY_RUN="true", SAFE_DEPLOY_DELETE_TASK_HUBS="true", SAFE_DEPLOY_OUTPUT="json"
    )
    assert ended.json()["dryRun"] is True
    refused = Place(place.url)
    refused.register()
    assert refused.call("cleanup", SAFE_DEPLOY_DELETE_TASK_HUBS="true").code == ExitCode.USAGE


def test_an_option_goes_before_its_variable(place: Place) -> None:
    place.register()
    ended = place.call("status", "--slot", "production", "--output", "json", SAFE_DEPLOY_SLOT="canary")
    assert ended.json()["slot"] == "production"


NAMES = [
    "SLOT",
    "OUTPUT",
    "ACTOR",
    "RUN_URL",
    "TASK_HUB",
    "VERSION",
    "RESOURCE_GROUP",
    "FUNCTION_APP",
    "HUB_SETTING",
    "TIMEOUT",
    "INTERVAL",
    "VERIFY",
    "REASON",
    "FORCE",
    "TAKE_OVER",
    "DELETE_TASK_HUBS",
    "DRY_RUN",
    "WAIT",
    "DEPLOY_COMMAND",
    "SWAP_COMMAND",
]


@pytest.mark.parametrize("command", ["status", "cleanup", "history", "rollback", "stage", "deploy"])
def test_an_empty_variable_counts_as_not_set(place: Place, command: str) -> None:
    place.register()
    if command == "rollback":
        place.swap(place.stage(new_hub()))
    empty = {f"SAFE_DEPLOY_{name}": "" for name in NAMES}
    ended = place.call(command, *(["--outcome", "done"] if command == "rollback" else []), **empty)
    if command in ("stage", "deploy"):
        assert ended.code == ExitCode.USAGE
        assert "Missing option '--task-hub'" in ended.stderr
    else:
        assert ended.code == 0, ended


@pytest.mark.parametrize(
    ("name", "value"), [("WAIT", "perhaps"), ("VERIFY", "never"), ("OUTPUT", "yaml"), ("TIMEOUT", "long")]
)
def test_a_variable_that_makes_no_sense_is_named(place: Place, name: str, value: str) -> None:
    ended = place.call("status", **{f"SAFE_DEPLOY_{name}": value})
    assert ended.code == ExitCode.USAGE
    assert f"SAFE_DEPLOY_{name}" in ended.stderr
