"""The results in the README are the table that the demonstration prints."""

import re
from pathlib import Path

from dev.demo.order_results import OrderCounts
from dev.demo.output import DemoResult, format_results

README = Path(__file__).parent.parent.parent / "README.md"


def test_the_readme_shows_the_table_that_the_demonstration_prints() -> None:
    (table,) = re.findall(r"^```text\n( +hub per version.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    rows = [[int(number) for number in re.findall(r"\d+", line)[-3:]] for line in table.splitlines()[2:]]
    columns = {}
    for index, name in enumerate(("hub per version", "one hub", "guarded")):
        started, completed, failed, non_deterministic, orphaned, deployments, refused = (row[index] for row in rows)
        counts = OrderCounts(started, completed, failed, non_deterministic, orphaned, still_open=0)
        columns[name] = DemoResult(counts, deployments, refused)
    assert table.rstrip("\n").splitlines() == [line.rstrip() for line in format_results(columns).splitlines()]
