"""Whether all slots have the setting that lowers the number of failed requests during a swap."""

from collections.abc import Iterator, Sequence
from functools import partial

from safe_deploy.diagnostics.durable_sites import DurableSite
from safe_deploy.diagnostics.results import CheckResult, CheckStatus, Repair

CHECK = "site names"

SITE_NAMES_SETTING = "WEBSITE_ADD_SITENAME_BINDINGS_IN_APPHOST_CONFIG"
"""With the value 1, a slot keeps its host names while it is swapped, and does not restart for them."""


def check_site_names(sites: Sequence[DurableSite]) -> Iterator[CheckResult]:
    """Check that each slot has SITE_NAMES_SETTING with the value 1. Raises AzureUnavailable."""
    lacking = [site for site in sites if site.read_settings().get(SITE_NAMES_SETTING) != "1"]
    if not lacking:
        yield CheckResult(CHECK, CheckStatus.OK, f"all slots have {SITE_NAMES_SETTING}=1")
        return
    names = " and ".join(site.name for site in lacking)

    def set_everywhere() -> str:
        for site in lacking:
            site.change_settings({SITE_NAMES_SETTING: "1"})
        return f"set {SITE_NAMES_SETTING}=1 in {names}. The app restarted there"

    message = f"{names} without {SITE_NAMES_SETTING}=1: a swap answers more requests with 503"
    repair = Repair(
        f"Set {SITE_NAMES_SETTING}=1 in {names}? The app restarts there.",
        set_everywhere,
        partial(check_site_names, sites),
    )
    yield CheckResult(CHECK, CheckStatus.WARNING, message, repair=repair)
