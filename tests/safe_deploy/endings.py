"""What tests of swaps, rollbacks and deployments say about how `safe-deploy` ended."""

import re
import signal
from pathlib import Path

import pytest

from tests.safe_deploy.processes import Ended
from tests.safe_deploy.shop import (
    GROUP,
    Shop,
)

OTHER_RUN = "https://ci.example/runs/2"
SLOTS = ("production", "staging")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def typed(ended: Ended, outcome: str) -> str:
    """The line to type that was printed for this outcome."""
    found = re.findall(rf"safe-deploy swap [^;]*?--outcome {outcome}", ended.stderr)
    assert found, ended.stderr
    return str(found[0])


def written(file: Path) -> bool:
    return file.exists() and file.read_text().endswith("\n")


def touch(shop: Shop) -> tuple[list[str], Path]:
    """A command that leaves a mark where it was run."""
    mark = shop.folder / "mark"
    return ["touch", str(mark)], mark


def ends(ended: Ended, code: int, *said: str) -> None:
    assert ended.code == code, ended.stderr
    for part in said:
        assert part in ended.stderr


def stages(shop: Shop, hub: str = "", *options: str) -> Ended:
    return shop.run(["stage", "--task-hub", hub or shop.new, "--resource-group", GROUP, *options])
