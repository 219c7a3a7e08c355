"""Tables in terminals of 60 and 80 columns, and in a log: nothing is wider than the terminal, no id is broken into
parts, and nothing is printed twice."""

import re
from io import StringIO

import pytest
from rich.console import Console

from safe_deploy.errors import ExitCode
from safe_deploy.rendering import describe_waived, print_table
from tests.builders import event
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.terminal import run_to_end_in_terminal

COLUMNS = ("Instance", "Function", "Active for", "Message")
LONG_ID = "a3f1c9d2b7e84f60:order-fulfilment:2026-11-27T19:55:01Z:0001"
MESSAGE = "the task hub has not been read yet, and the events of its last minute may be late"


def print_rows(width: int, *rows: tuple[str, ...]) -> list[str]:
    """The lines of a table on a console of this width."""
    file = StringIO()
    print_table(Console(file=file, width=width), COLUMNS, rows)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80])
def test_a_table_that_fits_is_one(width: int) -> None:
    """Sentences are wrapped between words."""
    lines = print_rows(width, ("order-1", "Ship", "2 min", MESSAGE), ("order-2", "Ship", "3 h", "short"))
    assert re.match(r" ?Instance +Function +Active for +Message", lines[1])
    assert max(map(len, lines)) <= width
    assert [word for word in MESSAGE.split() if word not in " ".join(lines).split()] == []


@pytest.mark.parametrize("width", range(46, 81))
def test_a_table_that_becomes_narrower_breaks_no_word(width: int) -> None:
    """Rich alone shortens the column of the id before it wraps the heads of the other columns."""
    lines = print_rows(width, ("order-1001", "ProcessOrder", "9 s", "known by events and by the probe"))
    assert max(map(len, lines)) <= width
    assert {"order-1001", "ProcessOrder"} <= set(" ".join(lines).split())


def test_one_message_that_is_waived_is_no_plural() -> None:
    assert describe_waived({"unexplainedMessages": 1}) == "1 unexplained message"
    assert describe_waived({"unexplainedMessages": 2}) == "2 unexplained messages"


@pytest.mark.parametrize("width", [60, 80])
def test_a_table_whose_words_do_not_fit_has_a_block_for_each_row(width: int) -> None:
    lines = print_rows(width, (LONG_ID, "ProcessOrderWithPayment", "2 min", MESSAGE), ("order-2", "Ship", "", ""))
    assert f"Instance    {LONG_ID}" in lines
    assert "Function    ProcessOrderWithPayment" in lines
    # The second row has neither an age nor a message.
    assert [line.split()[0] for line in lines if line and not line.startswith(" ")] == [
        *("Instance", "Function", "Active", "Message"),
        *("Instance", "Function"),
    ]
    assert all(len(line) <= width or LONG_ID in line for line in lines)


def test_a_log_has_one_line_for_each_row_of_any_length() -> None:
    lines = print_rows(1_000_000, (LONG_ID * 4, "Ship", "2 min", MESSAGE * 3))
    assert [line for line in lines if LONG_ID * 4 in line and MESSAGE * 3 in line]


@pytest.fixture
def busy_app(app_client: AppClient) -> AppClient:
    """An app with two active orders in production, one of which has a long id."""
    app_client.register()
    app_client.publish(*(event(app_client.hub, instance_id) for instance_id in ("order-1", LONG_ID)))
    return app_client


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", ["status", "instances"])
def test_an_id_is_never_broken_in_a_terminal(busy_app: AppClient, command: str, columns: int) -> None:
    _, text = run_to_end_in_terminal([command, "--slot", "production"], busy_app.build_environment(), columns=columns)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert [line.split() for line in lines if line.startswith("Instance ")] in (
        [["Instance", "order-1"], ["Instance", LONG_ID]],
        [["Instance", LONG_ID], ["Instance", "order-1"]],
    )


@pytest.mark.parametrize("columns", [60, 80])
def test_a_result_is_not_repeated_as_the_error(busy_app: AppClient, columns: int) -> None:
    code, text = run_to_end_in_terminal(
        ["status", "--slot", "production"], busy_app.build_environment(), columns=columns
    )
    assert code == ExitCode.NOT_READY
    assert text.count("NotReady:") == 1
    assert text.splitlines()[-1] == "error: slot production is not ready: InstancesActive"


def test_the_error_is_complete_where_the_result_is_json(busy_app: AppClient) -> None:
    result = busy_app.run_cli("status", "--slot", "production", "-o", "json")
    assert "2 orchestration instances are active" in result.stderr


def test_in_a_log_each_instance_is_one_line(busy_app: AppClient) -> None:
    result = busy_app.run_cli("status", "--slot", "production", GITLAB_CI="true", CI="true")
    assert [line for line in result.stdout.splitlines() if re.match(rf" ?{re.escape(LONG_ID)} +ProcessOrder", line)]
    assert "\x1b" not in result.stdout + result.stderr
