"""Which slot the status URLs of an app with slots lead to. Pure."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from safe_deploy.azure_slots import PRODUCTION
from safe_deploy.diagnostics.results import CheckResult, CheckStatus
from safe_deploy.diagnostics.status_urls import CHECK, StatusUrl
from safe_deploy.errors import ExitCode
from safe_deploy.slot_task_hubs import RecordedSlots, is_same_task_hub


def assess_slot_status_url(url: StatusUrl, recorded: RecordedSlots, hosts: Mapping[str, frozenset[str]]) -> CheckResult:
    """Report which slot the URL names. `hosts` are the host names of each slot, in lower case."""
    owners = {PRODUCTION: recorded.production, recorded.slot_name: recorded.slot}
    owner = next((slot for slot, hub in owners.items() if is_same_task_hub(hub, url.task_hub)), None)
    host = (urlsplit(url.origin).hostname or "").lower()
    if owner is None:
        message = f"task hub {url.task_hub} of the URL is in no slot on record. Check --status-url and the app's slots"
        return CheckResult(CHECK, CheckStatus.FAILED, message, ExitCode.CONFLICT)
    named = next((slot for slot, names in hosts.items() if host in names), None)
    if named is None:
        message = (
            f"the URL names {host}, which is no host name of the app's slots. That is right only if it is a gateway in "
            "front of production"
        )
        return CheckResult(CHECK, CheckStatus.WARNING, message)
    if named == owner == PRODUCTION:
        return CheckResult(CHECK, CheckStatus.OK, f"they name production, {host}, which keeps its name at a swap")
    if named == owner:
        message = (
            f"the URL names slot {owner}, {host}. Version and task hub move to production at the swap, and the URL "
            "then leads to the version before: give such URLs to testers only"
        )
        return CheckResult(CHECK, CheckStatus.WARNING, message)
    message = (
        f"the URL names slot {named}, {host}, but its task hub {url.task_hub} is in {owner}. Clients that follow it "
        "ask the wrong version"
    )
    return CheckResult(CHECK, CheckStatus.FAILED, message, ExitCode.CONFLICT)
