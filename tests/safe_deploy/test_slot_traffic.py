"""The share of a slot in Azure, read and set through the fake `az` in real processes."""

from pathlib import Path
from typing import Any

import pytest

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_slots import FunctionAppTarget
from safe_deploy.errors import UsageError
from safe_deploy.rollouts.ramp_up_rules import ObservedTraffic, RampUpRule
from safe_deploy.rollouts.slot_traffic import SlotTraffic
from tests.pipelines.fake_cloud import FakeAzure
from tests.safe_deploy.fake_function_app import create_fake_function_app, path_of

UNIQUE_HOST = "shop-staging-b2c4e6.westeurope-01.azurewebsites.net"
OTHER_RULE = {"name": "beta", "actionHostName": "shop-beta.azurewebsites.net", "reroutePercentage": 5.0}
TARGET = FunctionAppTarget(resource_group="shop-rg", function_app="shop", task_hub_setting="TASK_HUB")


@pytest.fixture
def fake_azure(tmp_path: Path) -> FakeAzure:
    """A fake `az` with an app whose slot staging has a unique host name."""
    fake_azure = create_fake_function_app(tmp_path)
    fake_azure.update_slot("shop", "staging", defaultHostName=UNIQUE_HOST)
    return fake_azure


@pytest.fixture
def traffic(fake_azure: FakeAzure) -> SlotTraffic:
    """The traffic of slot staging, as the CLI reads it."""
    return SlotTraffic(TARGET, "staging", environment={"PATH": path_of(fake_azure)})


def set_share(traffic: SlotTraffic, weight: int) -> None:
    """Set the share as the CLI does."""
    traffic.set_rules(traffic.observe().with_share(weight))


def test_an_app_without_rules_sends_no_visitor_to_the_slot(traffic: SlotTraffic) -> None:
    observed = traffic.observe()
    assert (observed.slot_host, observed.rules, observed.share) == (UNIQUE_HOST, (), 0)
    assert observed.routes_exactly(0)


def test_a_share_is_set_with_the_real_host_name_of_the_slot_and_read_back(
    traffic: SlotTraffic, fake_azure: FakeAzure
) -> None:
    set_share(traffic, 10)
    assert fake_azure.ramp_up_rules("shop") == [
        {"name": "staging", "actionHostName": UNIQUE_HOST, "reroutePercentage": 10}
    ]
    assert traffic.observe().routes_exactly(10)
    set_share(traffic, 50)
    assert traffic.observe().share == 50


def test_without_a_share_the_slot_has_no_rule(traffic: SlotTraffic, fake_azure: FakeAzure) -> None:
    set_share(traffic, 10)
    set_share(traffic, 0)
    assert fake_azure.ramp_up_rules("shop") == []


def test_rules_of_other_slots_stay_as_they_are(traffic: SlotTraffic, fake_azure: FakeAzure) -> None:
    fake_azure.update_app("shop", rampUpRules=[OTHER_RULE])
    set_share(traffic, 10)
    assert traffic.observe().routes_exactly(10)
    set_share(traffic, 0)
    [rule] = fake_azure.ramp_up_rules("shop")
    assert OTHER_RULE.items() <= rule.items()


def test_only_the_rules_are_changed(traffic: SlotTraffic, fake_azure: FakeAzure) -> None:
    set_share(traffic, 10)
    [change] = [call for call in fake_azure.calls if call[:2] == ["resource", "patch"]]
    assert change[change.index("--parent") + 1] == "sites/shop"
    assert change[change.index("--resource-type") + 1 : change.index("--resource-type") + 4] == [
        "config",
        "--name",
        "web",
    ]


def test_a_change_that_fails_names_the_right_that_is_missing(traffic: SlotTraffic, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("resource patch", message="(AuthorizationFailed) The client has no authorization.")
    with pytest.raises(AzureUnavailable, match=r"not allowed to change the traffic rules of .* Website Contributor"):
        set_share(traffic, 10)


def test_a_change_that_fails_is_shown_as_a_command_that_can_be_run(traffic: SlotTraffic, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("resource patch")
    with pytest.raises(AzureUnavailable) as caught:
        set_share(traffic, 10)
    assert '--properties \'{"experiments"' in caught.value.message


@pytest.mark.parametrize("output", ["[]", '{"host": null}', '{"host": 1}'])
def test_a_slot_without_a_host_name_is_refused(traffic: SlotTraffic, fake_azure: FakeAzure, output: str) -> None:
    fake_azure.set_fault("resource show", exit_code=None, output=output)
    with pytest.raises(AzureUnavailable):
        traffic.observe()


@pytest.mark.parametrize(
    "output", ['{"rules": 1}', '{"rules": [1]}', '{"rules": [{}]}', '{"rules": [{"actionHostName": "a", "b": 1}, 2]}']
)
def test_rules_that_az_shows_in_an_unexpected_form_are_refused(
    traffic: SlotTraffic, fake_azure: FakeAzure, output: str
) -> None:
    traffic.observe()
    fake_azure.set_fault("resource show", exit_code=None, output=output)
    with pytest.raises(AzureUnavailable, match="unexpected JSON"):
        traffic.observe()


def test_a_slot_that_does_not_exist_is_refused(fake_azure: FakeAzure) -> None:
    with pytest.raises(AzureUnavailable, match="Azure has no slot 'beta'"):
        SlotTraffic(TARGET, "beta", environment={"PATH": path_of(fake_azure)}).observe()
    with pytest.raises(UsageError, match="--slot"):
        SlotTraffic(TARGET, "no slot")


# rules


def observe_rules(*rules: dict[str, Any]) -> ObservedTraffic:
    """What Azure shows of slot staging with these rules."""
    parsed = tuple(RampUpRule.from_json(rule) for rule in rules)
    return ObservedTraffic(slot="staging", slot_host=UNIQUE_HOST, rules=parsed)


def rule(share: float, *, name: str = "staging", host: str = UNIQUE_HOST, **members: Any) -> dict[str, Any]:
    """A rule as Azure shows it."""
    return {"name": name, "actionHostName": host, "reroutePercentage": share, **members}


@pytest.mark.parametrize(
    ("rules", "share", "exact"),
    [
        ([rule(10)], 10, True),
        ([rule(10, name="Staging", host=UNIQUE_HOST.upper())], 10, True),
        ([rule(10, host="shop-staging.azurewebsites.net")], 10, False),
        ([rule(10, name="canary")], 10, False),
        ([rule(5), rule(5, name="again")], 10, False),
        ([rule(10, changeStep=5.0)], 10, False),
        ([rule(10, changeDecisionCallbackUrl="https://x.example")], 10, False),
        ([rule(10, name="beta", host="shop-beta.azurewebsites.net")], 0, False),
        ([{"name": None, "actionHostName": UNIQUE_HOST, "reroutePercentage": None}], 0, False),
    ],
)
def test_the_share_of_the_slot_is_that_of_all_rules_that_lead_to_it(
    rules: list[dict[str, Any]], share: float, *, exact: bool
) -> None:
    observed = observe_rules(*rules)
    assert (observed.share, observed.routes_exactly(10)) == (share, exact)


def test_a_rule_that_changes_by_itself_is_not_no_share() -> None:
    assert observe_rules(rule(0)).routes_exactly(0)
    assert not observe_rules(rule(0, changeStep=5.0)).routes_exactly(0)
