"""The deployed package of the sample app: its files, its functions, its requirements and settings."""

import importlib.metadata
import json
from pathlib import Path

import pytest

from harness.dependency_groups import read_pinned_versions
from tests.durable_app.functions.published_package import APP, publish_app, run_python

INDEX_SCRIPT = """
import json, sys, function_app
triggers = {function.get_function_name(): function.get_trigger() for function in function_app.app.get_functions()}
functions = {name: (trigger.type, getattr(trigger, "route", None)) for name, trigger in triggers.items()}
project_packages = ("durable_app", "state_api", "safe_deploy")
project_modules = sorted(name for name in sys.modules if name.partition(".")[0] in project_packages)
print(json.dumps([function_app.__file__, functions, project_modules]))
"""

SHARED_FUNCTIONS = {
    "StartOrder": ["httpTrigger", "orders"],
    "GetOrder": ["httpTrigger", "orders/{id}"],
    "ApproveOrder": ["httpTrigger", "orders/{id}/approve"],
    "RejectOrder": ["httpTrigger", "orders/{id}/reject"],
    "StartMonitor": ["httpTrigger", "monitor/start"],
    "GetMonitor": ["httpTrigger", "monitor/{id}"],
    "StopMonitor": ["httpTrigger", "monitor/{id}/stop"],
    "GetStock": ["httpTrigger", "stock/{item}"],
    "About": ["httpTrigger", "about"],
    "ProcessOrder": ["orchestrationTrigger", None],
    "ShipOrder": ["orchestrationTrigger", None],
    "StockMonitor": ["orchestrationTrigger", None],
    "PriceItem": ["activityTrigger", None],
    "ChargePayment": ["activityTrigger", None],
    "PackParcel": ["activityTrigger", None],
    "BookCarrier": ["activityTrigger", None],
    "Stock": ["entityTrigger", None],
}
EXTRA_FUNCTIONS = {"v1": {}, "v2": {"ScreenOrder": ["activityTrigger", None]}}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_published_app_can_be_indexed_without_this_project(tmp_path: Path, version: str) -> None:
    folder = publish_app(tmp_path / "app")
    process_result = run_python(INDEX_SCRIPT, folder, ORDERS_VERSION=version)
    assert (process_result.returncode, process_result.stderr) == (0, "")
    file, functions, project_modules = json.loads(process_result.stdout)
    assert file == str(folder / "function_app.py")
    assert functions == SHARED_FUNCTIONS | EXTRA_FUNCTIONS[version]
    assert project_modules == []


def test_the_app_is_version_2_unless_orders_version_names_another() -> None:
    process_result = run_python("import function_app; print(function_app.VERSION)", APP)
    assert process_result.stdout == "v2\n"


def test_the_app_does_not_start_with_an_unknown_version() -> None:
    process_result = run_python("import function_app", APP, ORDERS_VERSION="v9")
    assert "ORDERS_VERSION must be one of v1, v2, not v9" in process_result.stderr


def test_the_package_has_no_files_of_the_development_host(tmp_path: Path) -> None:
    names = {path.name for path in publish_app(tmp_path / "app").iterdir()}
    assert names == {"function_app.py", "host.json", "requirements.txt", "orders"}


def test_task_hub_and_topic_come_from_settings_and_publishing_is_retried() -> None:
    """Without `publishRetryCount`, an event is lost if its publication fails once."""
    durable = json.loads((APP / "host.json").read_text())["extensions"]["durableTask"]
    assert durable["hubName"] == "%TASK_HUB%"
    grid = durable["notifications"]["eventGrid"]
    assert grid["publishRetryCount"] > 0
    assert {429, 500} <= set(grid["publishRetryHttpStatus"])
    assert sorted(grid["publishEventTypes"]) == ["Completed", "Failed", "Started", "Terminated"]
    settings = json.loads((APP / "local.settings.example.json").read_text())["Values"]
    assert {"TASK_HUB", grid["topicEndpoint"].strip("%"), grid["keySettingName"]} <= set(settings)


def test_a_failing_topic_delays_an_orchestration_by_less_than_two_seconds_an_event() -> None:
    """The extension waits after every attempt, also after the last (docs/platform.md)."""
    max_delay_seconds = 2
    grid = json.loads((APP / "host.json").read_text())["extensions"]["durableTask"]["notifications"]["eventGrid"]
    hours, minutes, seconds = map(float, grid["publishRetryInterval"].split(":"))
    assert (hours, minutes) == (0, 0)
    assert 0 < seconds * (grid["publishRetryCount"] + 1) < max_delay_seconds


def test_the_requirements_are_pinned_installed_and_agree_with_the_servers() -> None:
    """The tests of the sample app and of the server run in the same environment."""
    pinned = read_pinned_versions("sample-app")
    assert pinned == {name: f"=={importlib.metadata.version(name)}" for name in pinned}
    assert pinned.items() <= (read_pinned_versions("server") | {"azure-functions-durable": "==1.7.0"}).items()
