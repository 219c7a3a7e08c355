"""Durations in options and variables: units, numbers alone, and what is refused."""

import re
from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from safe_deploy.durations import Seconds, parse_duration
from safe_deploy.errors import ExitCode, UsageError
from safe_deploy.options import DURATION
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.test_documentation import COMMANDS

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(1, 10_000), st.sampled_from(list(UNITS)))
def test_a_duration_survives_its_text(number: int, unit: str) -> None:
    seconds = number * UNITS[unit]
    assume(seconds <= 366 * 86400)
    duration = parse_duration(f"{number}{unit}", option="--since")
    assert duration == timedelta(seconds=seconds)
    assert parse_duration(str(Seconds(seconds)), option="--since") == duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("1.5h", 5400), ("1h30m", 5400), (" 10m ", 600), ("1d1s", 86401)]
)
def test_a_duration_is_a_number_of_seconds_or_has_units(text: str, seconds: float) -> None:
    assert parse_duration(text, option="--since").total_seconds() == seconds


@pytest.mark.parametrize(
    "text", ["367d", "999999999d", "h", "1 h", "-1h", "-1", "10min", "1h30", "1e3", "nan", "inf", "٣m", "0", "0s", ""]
)
def test_what_is_no_duration_of_at_most_a_year_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--since takes durations"):
        parse_duration(text, option="--since")


@pytest.mark.parametrize("timeout", ["0", "0s", "0.0m"])
def test_options_and_variables_take_durations(app_client: AppClient, timeout: str) -> None:
    app_client.register(policy={"requireVerification": True})
    message = "was not ready within 0 s"
    as_option = app_client.run_cli("status", "--slot", "production", "--wait", "--timeout", timeout, "--interval", "1m")
    as_variable = app_client.run_cli("status", "--slot", "production", "--wait", SAFE_DEPLOY_TIMEOUT=timeout)
    for result in (as_option, as_variable):
        assert (result.code, message in result.stderr) == (ExitCode.TIMED_OUT, True), result


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        (["--timeout", "31d"], {}, "'31d' is no duration from 0s to 30d, such as 90s, 15m, 2h or 1d. A number alone"),
        (["--timeout", "ten"], {}, "Invalid value for '--timeout'"),
        ([], {"SAFE_DEPLOY_INTERVAL": "3m"}, "SAFE_DEPLOY_INTERVAL'): '3m' is no duration from 1s to 2m"),
    ],
)
def test_an_invalid_duration_is_refused_with_its_limits(
    app_client: AppClient, options: list[str], variables: dict[str, str], message: str
) -> None:
    result = app_client.run_cli("status", *options, **variables)
    assert result.code == ExitCode.USAGE
    assert message in result.stderr


def test_help_shows_defaults_as_durations(app_client: AppClient) -> None:
    printed = " ".join(app_client.run_cli("status", "--help").stdout.split())
    assert (
        "--timeout DURATION How long to wait, such as 90s, 10m or 2h. [env var: SAFE_DEPLOY_TIMEOUT; default: 1h]"
        in (printed)
    )


def test_every_option_that_is_a_time_takes_durations() -> None:
    """No option is a number of seconds, minutes or hours."""
    options = [parameter for command in COMMANDS.values() for parameter in command.params]
    assert {parameter.opts[0] for parameter in options if parameter.metavar == DURATION} == {
        "--expires-in",
        "--interval",
        "--maximum-active-age",
        "--since",
        "--stabilization-window",
        "--step",
        "--timeout",
    }
    helps = [parameter.help or "" for parameter in options if parameter.metavar != DURATION]
    assert [text for text in helps if re.search(r"\b(seconds|minutes|hours)\b", text)] == []
