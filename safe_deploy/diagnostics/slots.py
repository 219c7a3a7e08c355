"""The checks of an app with slots: task hubs on record and in Azure, and a swap that is pending."""

from collections.abc import Callable, Iterator
from functools import partial

from safe_deploy.azure_cli import AzureResourceNotFound
from safe_deploy.azure_slots import PRODUCTION, DeploymentSlots
from safe_deploy.client import Json, StateServerClient
from safe_deploy.diagnostics.deployments import check_deployment, hold_back_repairs
from safe_deploy.diagnostics.durable_sites import DurableSite
from safe_deploy.diagnostics.evidence import EvidenceHints, check_evidence
from safe_deploy.diagnostics.extension import check_extension
from safe_deploy.diagnostics.host_json import OVERRIDE_NAMES
from safe_deploy.diagnostics.options import CheckOptions
from safe_deploy.diagnostics.results import CheckResult, CheckStatus, ErrorFilter, Repair
from safe_deploy.diagnostics.site_names import SITE_NAMES_SETTING, check_site_names
from safe_deploy.diagnostics.slot_status_urls import assess_slot_status_url
from safe_deploy.diagnostics.status_urls import CHECK as STATUS_URL_CHECK
from safe_deploy.errors import ConflictError, ExitCode
from safe_deploy.registration import find_app, plan_changes, write_app
from safe_deploy.slot_task_hubs import RecordedSlots, is_same_task_hub
from safe_deploy.swap_messages import describe_interrupted_swap

REGISTER_HINT = "Register the task hub in production: safe-deploy register"
_EVIDENCE_HINTS = EvidenceHints(
    configure_provider=(
        "To have the server read the app's task hubs, run: safe-deploy register --task-hub HUB "
        "--provider azureStorage --connection SETTING"
    ),
    require_verification="Run safe-deploy register with --require-verification",
)


def check_slots(server: StateServerClient, app: Json, options: CheckOptions) -> Iterator[CheckResult]:
    """Run the checks of an app with slots."""
    recorded = RecordedSlots.from_app(app, options.slot)
    slots = options.deployment_slots
    errors = ErrorFilter()
    yield from errors.run("app", partial(_check_app, server, app, options))
    yield from _check_swap(recorded)
    yield from check_deployment(app)
    if slots is None:
        yield _report_unchecked_slots()
    else:
        yield from hold_back_repairs(server, app, _check_slots_in_azure(server, recorded, slots, options, errors))
    # The record may have been repaired.
    hub = recorded.production or RecordedSlots.from_app(server.get_app()[0], options.slot).production
    if hub is None:
        yield from options.check_host_json()
        return
    is_verified = app["taskHubs"] is not None
    if slots is None:
        yield from options.check_host_json()
    else:
        settings = _check_settings(server, hub, slots, options, errors, is_verified=is_verified)
        yield from hold_back_repairs(server, app, settings)
    yield from check_extension(server, hub, options.host_json, is_verified=is_verified)
    if slots is not None or options.status_url is not None:
        yield from errors.run(STATUS_URL_CHECK, partial(_check_status_url, recorded, options))
    yield from check_evidence(
        app,
        hub,
        lambda verify: server.get_staging_status(PRODUCTION, verify=verify),
        hints=_EVIDENCE_HINTS,
        now=options.now,
        state_server=options.state_server,
    )


def _check_app(server: StateServerClient, app: Json, options: CheckOptions) -> Iterator[CheckResult]:
    """Whether the server has a task hub on record in production."""
    if RecordedSlots.from_app(app, options.slot).production is None:
        message = f"the server has no task hub on record in production, so it counts as empty. {REGISTER_HINT}"
        repair = plan_registration(server, options, lambda: _check_app(server, server.get_app()[0], options))
        yield CheckResult("app", CheckStatus.FAILED, message, repair=repair)
        return
    slots = ", ".join(f"{name} {(slot or {}).get('taskHub', 'empty')}" for name, slot in app["slots"].items())
    yield CheckResult("app", CheckStatus.OK, slots)


def plan_registration(
    server: StateServerClient, options: CheckOptions, check_again: Callable[[], Iterator[CheckResult]]
) -> Repair | None:
    """Register the task hub that Azure shows in production. None if Azure shows none, or the same one in both slots,
    which only a person can correct. Raises AzureUnavailable."""
    slots = options.deployment_slots
    if slots is None:
        return None
    task_hub = slots.get_task_hub(PRODUCTION)
    if task_hub is None:
        return None
    try:
        in_slot = slots.get_task_hub(options.slot)
    except AzureResourceNotFound:
        in_slot = None
    if is_same_task_hub(task_hub, in_slot):
        return None

    def register() -> str:
        # A swap may have been made while the question waited.
        if slots.get_task_hub(PRODUCTION) != task_hub:
            raise ConflictError(f"Azure shows another task hub in production by now than {task_hub}")
        _register_production(server, task_hub)
        return f"registered task hub {task_hub} in production of app {server.app}"

    question = (
        f"Register task hub {task_hub}, which Azure shows in production, for app {server.app}? No other app can use "
        "the name then."
    )
    return Repair(question, register, check_again)


def _register_production(server: StateServerClient, task_hub: str) -> None:
    """Record the task hub in production, which must still have none. Raises ConflictError if another caller has
    registered one meanwhile."""
    body = {"slots": {PRODUCTION: {"taskHub": task_hub, "version": None}}}
    app, etag = find_app(server)
    changes = plan_changes(app, body)
    if any(change.replaces for change in changes):
        raise ConflictError(f"production of app {server.app} has a task hub on record by now. Nothing was changed")
    write_app(server, body, etag=etag, is_done=lambda current: not plan_changes(current, body))


def _check_swap(recorded: RecordedSlots) -> Iterator[CheckResult]:
    """Report a pending swap, if there is one."""
    if recorded.pending_swap is not None:
        message = describe_interrupted_swap(recorded, recorded.pending_swap)
        yield CheckResult("swap", CheckStatus.FAILED, message, ExitCode.CONFLICT)


def _report_unchecked_slots() -> CheckResult:
    """The result when Azure cannot be asked, because the options do not name the Function App."""
    message = "not checked. Add --resource-group to compare the task hubs of the slots in Azure with the server's"
    return CheckResult("Azure", CheckStatus.WARNING, message)


def _check_slots_in_azure(
    server: StateServerClient,
    recorded: RecordedSlots,
    slots: DeploymentSlots,
    options: CheckOptions,
    errors: ErrorFilter,
) -> Iterator[CheckResult]:
    """Compare both slots in Azure with the record."""

    def compare(slot: str) -> Iterator[CheckResult]:
        """Compare one slot with what is on record now."""
        current = recorded
        if recorded.production is None:
            current = RecordedSlots.from_app(server.get_app()[0], options.slot)
        yield _compare_slot(slots, slot, current.production if slot == PRODUCTION else current.slot)

    for slot in (PRODUCTION, recorded.slot_name):
        yield from errors.run(f"Azure: {slot}", partial(compare, slot))
    yield from errors.run("Azure: setting", partial(_check_sticky_setting, slots))


def _compare_slot(deployment_slots: DeploymentSlots, slot: str, recorded_hub: str | None) -> CheckResult:
    """Whether a slot in Azure has the task hub that the server has on record. Raises AzureUnavailable."""
    observed_hub = deployment_slots.get_task_hub(slot)
    observed_text, recorded_text = observed_hub or "no task hub", recorded_hub or "no task hub"
    if is_same_task_hub(observed_hub, recorded_hub) or (observed_hub is None and recorded_hub is None):
        return CheckResult(f"Azure: {slot}", CheckStatus.OK, f"has {observed_text}, as on the server")
    message = f"has {observed_text}, but the server has {recorded_text} on record. Correct the one that is wrong"
    return CheckResult(f"Azure: {slot}", CheckStatus.FAILED, message, ExitCode.CONFLICT)


def _check_sticky_setting(slots: DeploymentSlots) -> Iterator[CheckResult]:
    """Whether the app setting with the task hub name moves with the code at a swap. Raises AzureUnavailable."""
    check, setting = "Azure: setting", slots.target.task_hub_setting
    if not slots.is_task_hub_setting_sticky():
        yield CheckResult(check, CheckStatus.OK, "the app setting with the task hub name moves with the code")
        return

    def make_movable() -> str:
        slots.make_task_hub_setting_movable()
        return f"the app setting {setting} moves with the code from now on"

    message = (
        "the app setting with the task hub name is slot-sticky: at a swap task hubs stay in their slots. Remove it "
        "from the app's list of slot settings: safe-deploy doctor --fix"
    )
    question = (
        f"Let the app setting {setting} move with the code at a swap? Its value in each slot stays as it is. The app "
        "may restart."
    )
    repair = Repair(question, make_movable, partial(_check_sticky_setting, slots))
    yield CheckResult(check, CheckStatus.FAILED, message, repair=repair)


def _check_settings(
    server: StateServerClient,
    task_hub: str,
    slots: DeploymentSlots,
    options: CheckOptions,
    errors: ErrorFilter,
    *,
    is_verified: bool,
) -> Iterator[CheckResult]:
    """The checks that read other app settings of both slots, and follow the app's events."""
    names = [SITE_NAMES_SETTING, *options.host_json.topic_source.setting_names, *OVERRIDE_NAMES]
    sites = [
        DurableSite(
            slot, names=names, read=partial(slots.read_settings, slot), change=partial(slots.change_settings, slot)
        )
        for slot in (PRODUCTION, options.slot)
    ]
    yield from errors.run("site names", partial(check_site_names, sites))
    yield from options.check_events(server, task_hub, sites, errors, is_verified=is_verified)


def _check_status_url(recorded: RecordedSlots, options: CheckOptions) -> Iterator[CheckResult]:
    """Which slot the status URLs lead to. Raises AzureUnavailable."""
    if options.status_url is None or options.deployment_slots is None:
        missing = [
            *(
                ["--status-url with a statusQueryGetUri that the app has returned"]
                if options.status_url is None
                else []
            ),
            *(["--resource-group"] if options.deployment_slots is None else []),
        ]
        message = f"not checked. Add {' and '.join(missing)} to see which host it names"
        yield CheckResult(STATUS_URL_CHECK, CheckStatus.UNKNOWN, message)
        return
    hosts = {slot: options.deployment_slots.get_host_names(slot) for slot in (PRODUCTION, options.slot)}
    yield assess_slot_status_url(options.status_url, recorded, hosts)
