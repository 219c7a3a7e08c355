"""`safe-deploy policy` against a real server, and how `NAME=VALUE` becomes a part of PutApp."""

from dataclasses import asdict
from typing import Any

import pytest

from safe_deploy.errors import ExitCode, UsageError
from safe_deploy.policy import DEFAULT_POLICY, build_policy_request, describe_policy, flatten_policy
from state_api.domain.readiness.policy import Policy
from state_api.http.responses.apps import PolicyResponse
from tests.safe_deploy.app_client import AppClient

DEFAULTS: dict[str, Any] = PolicyResponse.of(Policy()).model_dump(mode="json", by_alias=True)


def lines_of(text: str) -> list[str]:
    """The lines with single spaces between the words."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_the_defaults_are_those_of_the_server() -> None:
    assert flatten_policy(DEFAULTS) == DEFAULT_POLICY
    assert describe_policy(DEFAULTS) == "the defaults"
    assert len(asdict(Policy())) == len(DEFAULTS)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("settleSeconds=60", {"settleSeconds": 60}),
        ("requireVerification=true", {"requireVerification": True}),
        ("retention.keepLast=2", {"retention": {"keepLast": 2}}),
        ("ignoreFunctions=Nightly, Sync*", {"ignoreFunctions": ["Nightly", "Sync*"]}),
        ("ignoreFunctions=", {"ignoreFunctions": []}),
        ('ignoreFunctions=["a,b"]', {"ignoreFunctions": ["a,b"]}),
        ("maxReleases=5", {"maxReleases": 5}),
        ("maxReleases=null", {"maxReleases": None}),
        ("addressPattern=https://shop-*.a https://b=c", {"addressPattern": "https://shop-*.a https://b=c"}),
        ("quiesceOrder=overlap", {"quiesceOrder": "overlap"}),
        ("settleSeconds=soon", {"settleSeconds": "soon"}),
    ],
)
def test_an_assignment_has_the_kind_of_the_member(assignment: str, expected: Any) -> None:
    assert build_policy_request(DEFAULTS, [assignment], []) == expected


def test_several_members_are_set_and_unset_together() -> None:
    request = build_policy_request(DEFAULTS, ["retention.keepLast=2", "settleSeconds=5"], ["retention.keepForHours"])
    assert request == {"retention": {"keepLast": 2, "keepForHours": None}, "settleSeconds": 5}


@pytest.mark.parametrize(
    ("assignments", "unset", "message"),
    [
        (["settleSeconds"], [], "is not NAME=VALUE"),
        (["settleSecond=5"], [], "Close to it: settleSeconds"),
        (["SETTLESECONDS=5"], [], "Close to it: settleSeconds"),
        (["retention=5"], [], "has no member"),
        (["colour=red"], [], "It has settleSeconds, freshnessSeconds"),
        (["settleSeconds=5", "settleSeconds=6"], [], "given twice"),
        (["settleSeconds=5"], ["settleSeconds"], "given twice"),
        ([], ["x"], "has no member"),
        (["=5"], [], "has no member"),
    ],
)
def test_an_invalid_assignment_is_a_usage_error(assignments: list[str], unset: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_policy_request(DEFAULTS, assignments, unset)


def test_policy_set_shows_before_and_after_and_unset_restores_the_default(app_client: AppClient) -> None:
    app_client.register(policy={"ignoreFunctions": ["Nightly"]})
    result = app_client.run_cli("policy", "set", "settleSeconds=60", "retention.keepLast=1")
    assert result.code == ExitCode.DONE
    table = lines_of(result.stdout)
    assert table[:2] == [f"policy of app {app_client.app}: changed", "What On record New"]
    assert table[3:] == ["policy settleSeconds 30 60", "policy retention.keepLast 0 1"]
    policy = app_client.request_json("GET")["policy"]
    assert (policy["settleSeconds"], policy["retention"], policy["ignoreFunctions"]) == (
        60,
        {"keepLast": 1, "keepForHours": 0},
        ["Nightly"],
    )
    repeated = app_client.run_cli("policy", "set", "settleSeconds=60")
    assert "nothing has changed" in repeated.stdout
    assert len(app_client.history()) == 2
    restored = app_client.run_cli("policy", "set", "--unset", "settleSeconds", "--unset", "ignoreFunctions")
    assert lines_of(restored.stdout)[3:] == ["policy settleSeconds 60 30", "policy ignoreFunctions Nightly none"]
    printed = lines_of(app_client.run_cli("policy", "get", role="reader").stdout)
    assert printed[1] == "Name Value Default"
    assert "settleSeconds 30" in printed
    assert "retention.keepLast 1 0" in printed
    assert app_client.run_cli("policy", "get", "-o", "json").json() == app_client.request_json("GET")["policy"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["settleSeconds=soon"], ExitCode.USAGE, "settleSeconds"),
        (["settleSeconds=99999"], ExitCode.USAGE, "settleSeconds"),
        (["nothing=5"], ExitCode.USAGE, "the policy has no member"),
        ([], ExitCode.USAGE, "nothing is given to set"),
    ],
)
def test_what_the_server_refuses_changes_nothing(
    app_client: AppClient, arguments: list[str], code: int, message: str
) -> None:
    app_client.register()
    before = app_client.request_json("GET")
    result = app_client.run_cli("policy", "set", *arguments)
    assert (result.code, result.stdout) == (code, "")
    assert message in result.stderr
    assert app_client.request_json("GET") == before


def test_a_deployer_may_not_change_the_policy(app_client: AppClient) -> None:
    app_client.register()
    result = app_client.run_cli("policy", "set", "settleSeconds=5", role="deployer")
    assert result.code == ExitCode.NOT_ALLOWED
