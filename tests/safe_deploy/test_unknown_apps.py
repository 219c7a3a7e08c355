"""Which names of apps are close to one that the server does not know, and what bound keys are shown."""

from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from safe_deploy.unknown_apps import MAX_NAMES, describe_unknown_app, find_similar_names
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.keys import key_entry
from tests.safe_deploy.processes import run_safe_deploy, state_server

ADMIN_KEY = "admin-key-0123456789"
BOUND_KEY = "bound-key-0123456789"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("shopp", ["shop", "orders"], ["shop"]),
        ("SHOP", ["shop"], ["shop"]),
        ("shop", ["shop-4711", "mail"], ["shop-4711"]),
        ("shpo", ["shop", "ship"], ["shop"]),
        ("billing", ["shop", "orders"], []),
        ("shop", [], []),
    ],
)
def test_close_names_are_found(name: str, known: list[str], expected: list[str]) -> None:
    assert find_similar_names(name, known)[: len(expected) or None] == expected


def test_of_many_close_names_only_some_are_shown() -> None:
    known = [f"shop-{number:03}" for number in range(1000)]
    assert len(find_similar_names("shop-00", known)) == MAX_NAMES


def test_without_a_close_name_the_few_that_exist_are_shown() -> None:
    assert describe_unknown_app("billing", ["shop", "mail"]) == "the server has no app billing. It has shop, mail"
    many = [f"shop-{number}" for number in range(50)]
    assert describe_unknown_app("xyz", many) == "the server has no app xyz"
    assert describe_unknown_app("xyz", []) == "the server has no app xyz"


def test_a_key_that_is_bound_to_apps_is_shown_only_these(own_storage: StorageSettings, tmp_path: Path) -> None:
    entries = [key_entry(ADMIN_KEY, "admin", "operators"), key_entry(BOUND_KEY, "admin", "bound", ["shop"])]
    with state_server(own_storage, tmp_path, entries) as server:
        variables = {"SAFE_DEPLOY_SERVER": server.url, "SAFE_DEPLOY_KEY": ADMIN_KEY}
        for app in ("shop", "shops-secret"):
            created = run_safe_deploy(
                "register", "--create", "--app", app, "--task-hub", new_hub_name(), variables=variables
            )
            assert created.code == ExitCode.DONE, created.stderr
        for arguments in (["status"], ["register", "--task-hub", new_hub_name(), "--create"]):
            result = run_safe_deploy(*arguments, "--app", "shopp", variables=variables | {"SAFE_DEPLOY_KEY": BOUND_KEY})
            assert result.code == ExitCode.NOT_ALLOWED
            assert "use a key for app shopp. This key is for shop" in result.stderr
            assert "secret" not in result.stderr
        listed = run_safe_deploy("apps", "-o", "json", variables=variables | {"SAFE_DEPLOY_KEY": BOUND_KEY})
        assert [app["app"] for app in listed.json()["apps"]] == ["shop"]
