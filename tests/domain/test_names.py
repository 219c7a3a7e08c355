"""The names that Azure and Durable Functions allow, at the limits of each rule."""

import re

import pytest

from state_api.domain import names
from state_api.domain.names import (
    ADDRESS_PATTERN,
    ADDRESS_POLICY_PATTERN,
    APP_PATTERN,
    PATTERN_DESCRIPTIONS,
    RUN_URL_PATTERN,
    SLOT_PATTERN,
    VERSION_PATTERN,
    app_key,
    hub_key,
    is_entity,
    is_task_hub_name,
    matches_address_pattern,
    same_hub,
)


@pytest.mark.parametrize("name", ["v41", "V41", "shopHub2", "a" * 45])
def test_a_task_hub_name_has_3_to_45_letters_and_digits(name: str) -> None:
    assert is_task_hub_name(name)


@pytest.mark.parametrize(
    "name", ["", "v4", "a" * 46, "4v1", "shop-hub", "shop_hub", "shop hub", "v41\n", "höb", "v\uff141", "@v41"]
)
def test_any_other_task_hub_name_is_invalid(name: str) -> None:
    assert not is_task_hub_name(name)


@pytest.mark.parametrize("name", ["ab", "shop", "Shop-2", "2shop", "s--p", "a" * 60])
def test_an_app_name_has_2_to_60_letters_digits_and_hyphens(name: str) -> None:
    assert re.fullmatch(APP_PATTERN, name)


@pytest.mark.parametrize("name", ["", "a", "a" * 61, "-shop", "shop-", "shop.api", "sh/op", "shop\n"])
def test_any_other_app_name_is_invalid(name: str) -> None:
    assert re.fullmatch(APP_PATTERN, name) is None


@pytest.mark.parametrize("name", ["a", "staging", "canary-2", "a" * 59])
def test_a_slot_name_has_up_to_59_letters_digits_and_hyphens(name: str) -> None:
    assert re.fullmatch(SLOT_PATTERN, name)


@pytest.mark.parametrize("name", ["", "a" * 60, "-staging", "staging-", "sta ging", "staging\n"])
def test_any_other_slot_name_is_invalid(name: str) -> None:
    assert re.fullmatch(SLOT_PATTERN, name) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://ci.example",
        "http://127.0.0.1:8080/runs/7",
        "https://github.com/shop/api/actions/runs/7?check_suite_focus=true#step:1:2",
        "https://dev.azure.com/shop/My%20Project/_build/results?buildId=7&view=results",
    ],
)
def test_a_run_url_is_an_http_or_https_address_or_empty(url: str) -> None:
    assert re.fullmatch(RUN_URL_PATTERN, url)


@pytest.mark.parametrize(
    "url",
    [
        "ci.example/runs/7",
        "javascript:alert(1)",
        "ftp://ci.example/runs/7",
        "https://",
        "https://anna:secret@ci.example/runs/7",
        "https://ci.example/runs/7\n",
        "https://ci.example/<script>",
        'https://ci.example/"onclick=',
        "https://ci.example/runs 7",
    ],
)
def test_any_other_address_is_not_a_run_url(url: str) -> None:
    assert re.fullmatch(RUN_URL_PATTERN, url) is None


def test_each_pattern_has_a_description() -> None:
    patterns = {value for name, value in vars(names).items() if name.endswith("_PATTERN")}
    assert set(PATTERN_DESCRIPTIONS) == patterns
    assert all(words and not words.endswith(".") for words in PATTERN_DESCRIPTIONS.values())


def test_names_that_differ_in_case_alone_are_the_same() -> None:
    assert same_hub("OrdersV41", "ordersv41")
    assert not same_hub("OrdersV41", "OrdersV42")
    assert hub_key("OrdersV41") == "ordersv41"
    assert app_key("Shop-API") == "shop-api"


@pytest.mark.parametrize(
    ("instance_id", "entity"), [("@counter@order-1", True), ("@", True), ("", False), ("a@b", False)]
)
def test_the_id_of_an_entity_begins_with_an_at_sign(instance_id: str, *, entity: bool) -> None:
    assert is_entity(instance_id) is entity


@pytest.mark.parametrize("version", ["1", "1.5.0", "v2_rc-1", "a" * 64])
def test_a_version_has_up_to_64_characters_that_need_no_escape(version: str) -> None:
    assert re.fullmatch(VERSION_PATTERN, version)


@pytest.mark.parametrize("version", ["", ".5", "-1", "a" * 65, "1 5", "1/5", "1|5", "1\n"])
def test_any_other_version_is_invalid(version: str) -> None:
    assert re.fullmatch(VERSION_PATTERN, version) is None


@pytest.mark.parametrize(
    "address",
    [
        "https://shop-150.contoso.com",
        "https://shop:8443",
        "http://127.0.0.1:7072",
        "http://localhost",
        "http://[::1]:80",
        "https://shop:65535",
    ],
)
def test_an_address_is_an_origin_with_https_or_on_this_machine(address: str) -> None:
    assert re.fullmatch(ADDRESS_PATTERN, address)


@pytest.mark.parametrize(
    "address",
    [
        "http://shop.example",
        "https://shop.example/",
        "https://shop.example/api",
        "https://user@shop.example",
        "https://shop.example?x=1",
        "http://localhost.evil.example",
        "ftp://localhost",
        "https://",
        "https://-shop",
        "https://shop:0",
        "https://shop:65536",
        "https://shop:",
    ],
)
def test_any_other_address_is_invalid(address: str) -> None:
    assert re.fullmatch(ADDRESS_PATTERN, address) is None


@pytest.mark.parametrize(
    ("address", "matches"),
    [
        ("https://shop-150.contoso.com", True),
        ("https://SHOP-150.Contoso.COM", True),
        ("https://shop-.contoso.com", True),
        ("https://shop-1.evil.example", False),
        ("https://shop-1.evil.contoso.com", False),
        ("https://shop-150.contoso.com:8443", False),
        ("https://shop-150xcontoso.com", False),
        ("http://shop-150.contoso.com", False),
    ],
)
def test_a_wildcard_of_an_address_pattern_covers_no_dot_and_no_port(address: str, *, matches: bool) -> None:
    assert matches_address_pattern(address, "https://shop-*.contoso.com") is matches


@pytest.mark.parametrize(
    ("address", "matches"),
    [
        ("https://shop-150-a1b2.westeurope-01.azurewebsites.net", True),
        ("https://shop-140.contoso.com", True),
        ("https://shop-160-a1b2.westeurope-01.azurewebsites.net", False),
        ("https://shop-150-a1b2.westeurope-01.azurewebsites.net https://shop-140.contoso.com", False),
    ],
)
def test_an_address_matches_one_of_several_patterns(address: str, *, matches: bool) -> None:
    patterns = "https://shop-150-A1B2.westeurope-01.azurewebsites.net https://shop-*.contoso.com"
    assert re.fullmatch(ADDRESS_POLICY_PATTERN, patterns)
    assert matches_address_pattern(address, patterns) is matches


@pytest.mark.parametrize("patterns", ["", " https://a", "https://a ", "https://a  https://b", "https://a\nhttps://b"])
def test_address_patterns_are_separated_by_single_blanks(patterns: str) -> None:
    assert re.fullmatch(ADDRESS_POLICY_PATTERN, patterns) is None
