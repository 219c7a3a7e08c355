"""One of two servers runs on a machine whose clock is ten minutes wrong. Settle windows and the check of event times
use the storage's clock, so verdicts and records must be right."""

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


@pytest.mark.parametrize("seconds_ahead", [_TEN_MINUTES, -_TEN_MINUTES], ids=["ahead", "behind"])
async def test_a_wrong_clock_of_a_server_has_no_effect(
    seconds_ahead: int, storage: StorageSettings, tmp_path: Path, record_figures: Callable[..., None]
) -> None:
    with run_servers(storage, tmp_path) as group:
        skewed = group.add({SKEW_VARIABLE: str(seconds_ahead)}, ("-m", "tests.faults.skewed_clock_server"))
        async with httpx.AsyncClient(timeout=60) as http:
            # The first request to this server, so it has had no response of the storage yet.
            from_skewed = await http.post(f"{skewed.url}/api/events", json=[event(new_hub_name())])
            assert from_skewed.json() == {"recorded": 1, "unchanged": 0, "quarantined": 0}
            from_other = await http.get(f"{group.addresses[0]}/api/health")
        dates = [parsedate_to_datetime(response.headers["Date"]) for response in (from_skewed, from_other)]
        assert abs((dates[0] - dates[1]).total_seconds() - seconds_ahead) < 60, "the clock is as wrong as intended"

        async def wait_until_published(publisher: Publisher) -> None:
            await publisher.wait_for_share(1)

        # By the clock of a server that is behind, all events of the last minute are in the future.
        await run_fault_scenario(
            group,
            Publisher(group.addresses, seed=21),
            events=EVENTS,
            inject_faults=wait_until_published,
            record_figures=record_figures,
            span_seconds=60,
        )
