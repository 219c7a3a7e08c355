"""Providers, policies, durations, security headers and paths in the guides and explanations, compared with the code."""

import json
import re

from state_api.backends.registry import PROVIDERS
from state_api.domain.instants import TICKS_PER_SECOND
from state_api.domain.readiness import requirements as read_requirements
from state_api.domain.readiness.policy import Policy
from state_api.domain.task_hubs import reconciliation
from state_api.http import middleware, requests
from state_api.http.responses.apps import PolicyResponse
from state_api.services import background, cleanup, probe_leases, verification
from state_api.settings import (
    Role,
)
from tests.documents.page_tables import (
    ARCHITECTURE,
    AZURE,
    CODE,
    CONCEPTS,
    CONTRIBUTING,
    HTTP_API,
    OPERATIONS,
    ROOT,
    SECURITY,
    SETTINGS,
    list_make_targets,
    read_first_column,
    read_section,
    read_table_rows,
    remove_markup,
)

EN_DASH = "\N{EN DASH}"


def test_every_provider_is_documented_and_no_other() -> None:
    assert read_first_column(HTTP_API, "PutApp", "Provider") == list(PROVIDERS)
    assert read_first_column(CONCEPTS, "Providers", "Provider") == list(PROVIDERS)
    assert set(read_first_column(SETTINGS, "Task hubs", "Provider")) == set(PROVIDERS)
    assert set(read_first_column(AZURE, "Verification", "Provider")) == {"any", *PROVIDERS}


def test_the_documented_durations_of_verification_are_those_of_the_code() -> None:
    assert {remove_markup(cells[0]): cells[1] for cells in read_table_rows(CONCEPTS, "In the background", "What")} == {
        "one request reads a task hub for at most": f"{verification.PROBE_TIMEOUT_SECONDS:g} s",
        "one Cleanup reads and deletes for at most": f"{cleanup._CLEANUP_TIMEOUT_SECONDS:g} s",
        "time between two rounds in the background": f"{background.INTERVAL_SECONDS} s",
        "one round in the background reads task hubs for at most": f"{background._ROUND_TIMEOUT_SECONDS:g} s",
        "a published start that the task hub does not show blocks, where messages cannot be seen, for at most": (
            f"{reconciliation.START_GRACE_PERIOD // TICKS_PER_SECOND} s"
        ),
        "clocks of workers and storage may differ by": f"{reconciliation.CLOCK_SKEW // TICKS_PER_SECOND} s",
        "a task hub that takes longer to read is not read again from the beginning for every request": (
            f"{read_requirements.LARGE_HUB_READ_SECONDS:g} s"
        ),
    }
    assert f"for up to {probe_leases.LEASE_DURATION_SECONDS} s: a request" in read_section(
        CONCEPTS, "In the background"
    )
    assert probe_leases.LEASE_DURATION_SECONDS < 15, "a server that is killed delays the next reader by at most 15 s"
    timer = read_section(OPERATIONS, "The timers")
    schedule, rollout_schedule = re.findall(
        r'timer_trigger\(schedule="([^"]+)"', (ROOT / "function_app.py").read_text()
    )
    assert rollout_schedule == schedule, "the page says that both timers run equally often"
    assert schedule == f"*/{background.INTERVAL_SECONDS} * * * * *"
    assert f"every {background.INTERVAL_SECONDS} seconds (`{schedule}`)" in timer
    assert f"at most {background._ROUND_TIMEOUT_SECONDS:g} seconds" in timer
    host = json.loads((ROOT / "host.json").read_text())
    assert f'`"functionTimeout": "{host["functionTimeout"]}"`' in timer


def test_the_policy_is_documented_with_its_defaults_and_ranges() -> None:
    default = PolicyResponse.of(Policy()).model_dump(by_alias=True)
    default |= {f"retention.{name}": value for name, value in default.pop("retention").items()}
    documented = {remove_markup(cells[0]): cells for cells in read_table_rows(CONCEPTS, "Policy", "Member")}
    formatted = {name: "none" if value == [] else json.dumps(value) for name, value in default.items()}
    assert {name: cells[1] for name, cells in documented.items()} == formatted
    schema = requests.PolicyRequest.model_json_schema()
    properties = schema["properties"]
    properties |= {
        f"retention.{name}": member for name, member in schema["$defs"]["RetentionRequest"]["properties"].items()
    }
    numbers = {name: member["anyOf"][0] for name, member in properties.items() if "anyOf" in member}
    ranges = {
        name: f"{number['minimum']}{EN_DASH}{number['maximum']}"
        for name, number in numbers.items()
        if "minimum" in number
    }
    assert {name: cells[2] for name, cells in documented.items() if EN_DASH in cells[2]} == ranges
    assert documented["ignoreFunctions"][2] == f"up to {numbers['ignoreFunctions']['maxItems']}"


def test_the_documented_security_headers_are_those_of_the_code() -> None:
    documented = {
        remove_markup(cells[0]): remove_markup(cells[1]) for cells in read_table_rows(SECURITY, "Headers", "Header")
    }
    assert documented == middleware.security_headers("https")


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = {path for path in CODE.findall(SECURITY.read_text()) if path.startswith("tests/")}
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_a_stolen_key_is_described_for_every_role() -> None:
    assert set(Role) <= set(read_first_column(SECURITY, "A stolen key", "Key of"))


def test_every_make_target_is_documented_and_no_other() -> None:
    assert set(read_first_column(CONTRIBUTING, "Make targets", "Target")) == {
        f"make {name}" for name in list_make_targets()
    }


def test_every_path_that_the_architecture_names_exists() -> None:
    named = {path for path in CODE.findall(ARCHITECTURE.read_text()) if "/" in path or path.endswith(".py")}
    under_root = {path if (ROOT / path).exists() else f"state_api/{path}" for path in named}
    assert len(named) > 20
    assert sorted(path for path in under_root if not (ROOT / path).exists()) == []
