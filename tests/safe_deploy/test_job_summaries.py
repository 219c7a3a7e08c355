"""Job summaries render as tables, also with hostile cells."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_deploy.rendering import format_markdown_table
from safe_deploy.sanitization import escape_unprintable
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.ci_systems import AZURE, github_environment
from tests.safe_deploy.job_summaries import RenderedTable, parse_tables, render_html

HOSTILE_CELLS = [
    "a|b",
    "\\|",
    "trailing backslash\\",
    "`code`",
    "<script>alert(1)</script>",
    "<!-- comment",
    "first line\nsecond line",
    "\r\n\r\n# heading",
    "| --- | --- |",
    "**bold** _emphasis_ ~~deleted~~",
    "[link](https://evil.example) ![image](x) <https://evil.example>",
    "&lt;b&gt; &#x202e;",
    "\x1b[2J\x00\u202e",
    "",
]


def test_a_table_renders_as_a_table_with_its_cells() -> None:
    markdown = format_markdown_table(("Task hub", "Version"), [["v41", "1.4.0"], ["v42", ""]])
    assert parse_tables(markdown) == [RenderedTable(["Task hub", "Version"], [["v41", "1.4.0"], ["v42", ""]])]
    assert "<th>Task hub</th>" in render_html(markdown)
    assert "<td>1.4.0</td>" in render_html(markdown)


@pytest.mark.parametrize("cell", HOSTILE_CELLS, ids=ascii)
def test_a_hostile_cell_is_plain_text_in_its_own_cell(cell: str) -> None:
    markdown = format_markdown_table(("Instance", "Function"), [[cell, "next"], ["below", cell]])
    text = escape_unprintable(cell)
    assert parse_tables(markdown) == [RenderedTable(["Instance", "Function"], [[text, "next"], ["below", text]])]
    assert "<script" not in render_html(markdown)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=40), st.sampled_from(HOSTILE_CELLS)), max_size=5))
def test_every_text_renders_as_itself(rows: list[tuple[str, str]]) -> None:
    (table,) = parse_tables(format_markdown_table(("First", "Second"), rows))
    # A renderer trims the spaces around a cell.
    assert table.rows == [[escape_unprintable(cell).strip(" ") for cell in row] for row in rows]


@pytest.mark.parametrize("system", ["github", "azure"])
def test_the_summary_of_a_command_renders_as_a_table(app_client: AppClient, tmp_path: Path, system: str) -> None:
    app_client.register()
    app_client.publish(
        *(event(app_client.hub, cell, function=cell) for cell in HOSTILE_CELLS if "\x00" not in cell and cell)
    )
    variables = github_environment(tmp_path) if system == "github" else AZURE | {"AGENT_TEMPDIRECTORY": str(tmp_path)}
    app_client.run_cli("status", "--slot", "production", **variables)
    (summary,) = tmp_path.glob("summary" if system == "github" else "*.md")
    (table,) = parse_tables(summary.read_text(encoding="utf-8"))
    assert table.header == ["Instance", "Function", "Status", "Active for", "Last event", "Known by"]
    cells = {escape_unprintable(cell) for cell in HOSTILE_CELLS if "\x00" not in cell and cell}
    assert {(row[0], row[1], row[2]) for row in table.rows} == {(cell, cell, "Running") for cell in cells}


def test_two_commands_of_one_step_write_two_tables(app_client: AppClient, tmp_path: Path) -> None:
    app_client.register()
    variables = github_environment(tmp_path)
    hub = new_hub_name()
    app_client.run_cli("stage", "--task-hub", hub, **variables)
    app_client.run_cli("history", **variables)
    slots, history = parse_tables((tmp_path / "summary").read_text(encoding="utf-8"))
    assert [row[:2] for row in slots.rows] == [["production", app_client.hub], ["staging", hub]]
    assert [row[2] for row in history.rows] == ["PostStaging", "PutApp"]
