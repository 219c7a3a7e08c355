"""Scans for tests, with helpers that read passes, and strategies of pages."""

from collections.abc import Iterable

from hypothesis import strategies as st

from state_api.domain.readiness.evidence import ProbeResult, ProbeStatus
from state_api.domain.readiness.exemptions import Exemptions
from state_api.domain.readiness.scans import Scan
from state_api.domain.task_hubs.lifecycle import RuntimeStatus
from state_api.domain.task_hubs.observations import ObservedInstance
from tests.domain.builders import AZURE_STORAGE, build_observed_instance, build_waiver, noon_plus

COMPLETED = RuntimeStatus.COMPLETED
NO_EXEMPTIONS = Exemptions()
SOME_EXEMPTIONS = Exemptions(("Nightly*",), (build_waiver("stuck"),))
SCAN_BEGAN = -12
"""When the scans began by the backend's clock, in seconds after noon."""
OBSERVED_INSTANCES = st.builds(
    ObservedInstance,
    instance_id=st.sampled_from(["order-1", "order-2", "naïve/№ \x00", "", "stuck"]) | st.text(max_size=3),
    function_name=st.sampled_from(["ProcessOrder", "NightlySync", ""]),
    version=st.sampled_from([None, "", "1.4.0", "2.0"]),
    runtime_status=st.sampled_from(RuntimeStatus),
    created_at=st.integers(-15, -9).map(noon_plus),
    updated_at=st.integers(-15, -9).map(noon_plus),
    stamp=st.sampled_from(["1", "2"]),
)
PAGES = st.lists(st.lists(OBSERVED_INSTANCES, max_size=4), max_size=6)


def build_scan(*cursors: str) -> Scan:
    """A scan that has read nothing yet. Its next passes read the range `again`."""
    return Scan(noon_plus(-10), noon_plus(SCAN_BEGAN), list(cursors), ["again"], "the key")


def build_observed_end(instance_id: str = "order-1", updated: float = -5) -> ObservedInstance:
    """An instance that ended while the scan was in progress."""
    return build_observed_instance(instance_id, status=COMPLETED, updated=updated)


def read_pass(scan: Scan, *pages: Iterable[ObservedInstance], exemptions: Exemptions = NO_EXEMPTIONS) -> bool:
    """Read these pages in one pass. Returns whether the scan is complete after it."""
    for page in pages:
        scan.add_page(page, exemptions)
    scan.cursors.clear()
    return scan.finish_pass()


def build_complete_result(scan: Scan) -> ProbeResult:
    """The result of a scan that has read everything by noon."""
    return scan.to_result(ProbeStatus.COMPLETE, AZURE_STORAGE, noon_plus())
