"""One of two servers runs on a machine whose clock is ten minutes wrong. Settle windows and the check of event times
go by the storage's clock, so neither verdicts nor events may suffer."""

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import new_hub_name
from tests.faults.fault_scenario import run_fault_scenario
from tests.faults.publisher import Publisher
from tests.faults.scale import scaled
from tests.faults.server_group import run_servers
from tests.faults.skewed_clock_server import SKEW_VARIABLE

pytestmark = [pytest.mark.fault, pytest.mark.anyio]

EVENTS = scaled(2_000)
_TEN_MINUTES = 600


@pytest.mark.parametrize("ahead", [_TEN_MINUTES, -_TEN_MINUTES], ids=["ahead", "behind"])
async def test_a_server_whose_clock_is_wrong_is_not(
    ahead: int, storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    with run_servers(storage, tmp_path) as group:
        wrong = group.add({SKEW_VARIABLE: str(ahead)}, ("-m", "tests.faults.skewed_clock_server"))
        async with httpx.AsyncClient(timeout=60) as http:
            # The first thing that it hears, before it can have asked the storage for anything else.
            first = await http.post(f"{wrong.url}/api/events", json=[event(new_hub_name())])
            assert first.json() == {"recorded": 1, "unchanged": 0, "quarantined": 0}
            right = await http.get(f"{group.addresses[0]}/api/health")
        dates = [parsedate_to_datetime(answer.headers["Date"]) for answer in (first, right)]
        assert abs((dates[0] - dates[1]).total_seconds() - ahead) < 60, "its clock is wrong by what was asked for"

        async def nothing_else(publisher: Publisher) -> None:
            await publisher.wait_for_share(1)

        # Of the last minute: by the clock of the server that is behind they are all far in the future.
        await run_fault_scenario(
            group, Publisher(group.addresses, seed=21), EVENTS, nothing_else, record_figures, span_seconds=60
        )
