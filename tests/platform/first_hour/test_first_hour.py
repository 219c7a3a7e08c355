"""Every command of docs/first-hour.md, in order, from a clean clone on.

`az`, `azd` and `gh` are stand-ins. The Functions host, the extension and the compiler of the templates are real."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from harness.state_server import ROOT
from tests.documents.markdown_page import list_section_titles
from tests.platform.first_hour.environment import FIRST_TASK_HUB, FirstHour, open_first_hour

_PAGE = ROOT / "docs" / "first-hour.md"
_WAITING_SECTION = "A deployment that waits"
_ORDER_ID = "order-1001"


def test_every_command_of_the_guide_works_when_the_sections_are_run_in_order(tmp_path: Path) -> None:
    with open_first_hour(tmp_path) as hour:
        for title in list_section_titles(_PAGE):
            if title == "A guarded deployment":
                hour.apps.start_order(FIRST_TASK_HUB, _ORDER_ID)
            with ending_order(hour) if title == _WAITING_SECTION else nullcontext():
                hour.commands.run_section(_PAGE, title)


@contextmanager
def ending_order(hour: FirstHour) -> Iterator[None]:
    """While the block runs, end the order once a command reports that it waits."""
    is_over, earlier = threading.Event(), hour.count_reporting_blocks()

    def end_order() -> None:
        """Wait for the report, and end the order."""
        while hour.count_reporting_blocks() == earlier:
            if is_over.wait(0.2):
                return
        hour.apps.end_order(FIRST_TASK_HUB, _ORDER_ID)

    thread = threading.Thread(target=end_order)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_the_last_sections_of_the_guide_are_those_that_the_test_prepares() -> None:
    assert list_section_titles(_PAGE)[-3:] == ["A guarded deployment", "A deployment that is refused", _WAITING_SECTION]
