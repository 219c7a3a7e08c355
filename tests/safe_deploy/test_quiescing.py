"""Functions that start work by themselves: when a promotion disables and enables them, and what is done in the Function
App of a release."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from safe_deploy.azure_cli import AzureUnavailable
from safe_deploy.azure_function_apps import FunctionAppNotFound, FunctionApps
from safe_deploy.errors import UsageError
from safe_deploy.quiescing import PromotionAction, ReleaseFunctions, order_actions
from tests.pipelines.fake_cloud import FakeAzure, install_fake_az
from tests.safe_deploy.fake_function_app import path_of

CASES = [
    pytest.param(order, rollback, had_traffic, id=f"{order}, {rollback=}, {had_traffic=}")
    for order in ("gap", "overlap")
    for rollback in (False, True)
    for had_traffic in (False, True)
]
each_case = pytest.mark.parametrize(("order", "rollback", "had_traffic"), CASES)


# --- the order of a promotion ---


@dataclass
class TwoReleases:
    """The release that is active and the one that is to be, while a promotion is carried out."""

    active: str = "old"
    running: set[str] = field(default_factory=lambda: {"old"})
    """The releases in which the functions are enabled."""
    restarted: str | None = None
    """The release that the last step has restarted. One whose functions are as wanted does not restart."""

    def carry_out(self, action: PromotionAction) -> None:
        """Take one step of a promotion."""
        before = set(self.running)
        if action is PromotionAction.ROUTE:
            self.active = "new"
        elif action is PromotionAction.QUIESCE:
            self.running -= {"old"}
        else:
            self.running |= {"new"}
        self.restarted = next(iter(before ^ self.running), None)


@each_case
def test_a_promotion_that_was_interrupted_anywhere_ends_in_the_same_state(
    order: str, *, rollback: bool, had_traffic: bool
) -> None:
    actions = order_actions(order, rollback=rollback, had_traffic=had_traffic)
    for completed in range(len(actions) + 1):
        releases = TwoReleases()
        for action in (*actions[:completed], *actions):
            releases.carry_out(action)
        assert (releases.active, releases.running) == ("new", {"new"})


@each_case
def test_with_a_gap_never_two_releases_run_the_functions_and_with_an_overlap_always_one_does(
    order: str, *, rollback: bool, had_traffic: bool
) -> None:
    releases = TwoReleases()
    counts = []
    for action in order_actions(order, rollback=rollback, had_traffic=had_traffic):
        releases.carry_out(action)
        counts.append(len(releases.running))
    assert max(counts) == (1 if order == "gap" else 2)
    assert min(counts) == (0 if order == "gap" else 1)


def test_with_a_gap_the_release_before_never_runs_the_functions_without_traffic() -> None:
    """Otherwise it could take a message that the next release has sent."""
    releases = TwoReleases()
    for action in order_actions("gap", rollback=False, had_traffic=False):
        releases.carry_out(action)
        assert releases.active == "old" or "old" not in releases.running


def test_with_an_overlap_no_app_restarts_while_it_has_traffic() -> None:
    releases = TwoReleases()
    for action in order_actions("overlap", rollback=False, had_traffic=False):
        active_before = releases.active
        releases.carry_out(action)
        assert releases.restarted != active_before


@each_case
def test_all_functions_are_changed_after_the_routing_too(order: str, *, rollback: bool, had_traffic: bool) -> None:
    """Another promotion may have changed them since they were changed before it."""
    actions = order_actions(order, rollback=rollback, had_traffic=had_traffic)
    after = actions[actions.index(PromotionAction.ROUTE) + 1 :]
    assert set(after) == {PromotionAction.QUIESCE, PromotionAction.UNQUIESCE}


@pytest.mark.parametrize("order", ["gap", "overlap"])
def test_a_rollback_moves_the_visitors_before_anything_else(order: str) -> None:
    assert order_actions(order, rollback=True, had_traffic=True)[0] is PromotionAction.ROUTE


@each_case
def test_the_functions_of_a_release_that_may_be_removed_are_enabled_after_the_server_has_routed_to_it(
    order: str, *, rollback: bool, had_traffic: bool
) -> None:
    actions = order_actions(order, rollback=rollback, had_traffic=had_traffic)
    is_enabled_before = PromotionAction.UNQUIESCE in actions[: actions.index(PromotionAction.ROUTE)]
    assert is_enabled_before == (order == "overlap" and not rollback and not had_traffic)


# --- the Function App of a release ---


@dataclass(frozen=True)
class Release:
    version: str = "1.4.0"
    address: str = "https://shop-140.azurewebsites.net"


RELEASE = Release()
GONE = Release("1.3.0", "https://shop-130.azurewebsites.net")


@pytest.fixture
def fake_azure(tmp_path: Path) -> FakeAzure:
    """A fake `az` with the Function App of one release."""
    install_fake_az(tmp_path / "bin", tmp_path / "cloud.json")
    fake_azure = FakeAzure(tmp_path / "cloud.json")
    fake_azure.reset({"shop-140": {"resourceGroup": "shop-rg", "slots": {"production": {}}}})
    return fake_azure


class QuiescedRelease:
    """The functions Nightly and Send_Invoices in a release, with what was reported."""

    def __init__(self, path: str) -> None:
        """The functions of a release, one of which the policy names twice, in different case."""
        self.reported: list[str] = []
        self.release_functions = ReleaseFunctions(
            FunctionApps("shop-rg", environment={"PATH": path}),
            ["Nightly", "Send_Invoices", "nightly"],
            report=self.reported.append,
        )

    def take_reports(self) -> str:
        """The lines that were reported since the last call."""
        reported, self.reported[:] = "\n".join(self.reported), []
        return reported


@pytest.fixture
def quiescing(fake_azure: FakeAzure) -> QuiescedRelease:
    """A release whose functions the test disables and enables."""
    return QuiescedRelease(path_of(fake_azure))


def test_what_a_restart_does_is_said_before_it_is_done(quiescing: QuiescedRelease, fake_azure: FakeAzure) -> None:
    fake_azure.set_fault("appsettings set")
    with pytest.raises(AzureUnavailable):
        quiescing.release_functions.quiesce(RELEASE)
    assert quiescing.take_reports() == (
        "Nightly, Send_Invoices of release 1.4.0 will be disabled: Function App shop-140 restarts. Activities that are "
        "running there may run again"
    )
    assert fake_azure.count_restarts("shop-140") == 0


def test_functions_are_disabled_and_enabled_by_one_restart_each(
    quiescing: QuiescedRelease, fake_azure: FakeAzure
) -> None:
    quiescing.release_functions.quiesce(RELEASE)
    assert set(fake_azure.settings("shop-140").values()) == {"true"}
    quiescing.release_functions.unquiesce(RELEASE)
    assert set(fake_azure.settings("shop-140").values()) == {"false"}
    assert fake_azure.count_restarts("shop-140") == 2


def test_functions_that_are_as_wanted_cause_no_restart_and_that_is_said(
    quiescing: QuiescedRelease, fake_azure: FakeAzure
) -> None:
    quiescing.release_functions.quiesce(RELEASE)
    quiescing.take_reports()
    quiescing.release_functions.quiesce(RELEASE)
    assert "disabled already, so Function App shop-140 is not restarted" in quiescing.take_reports()
    assert fake_azure.count_restarts("shop-140") == 1


def test_only_the_functions_that_differ_are_changed(quiescing: QuiescedRelease, fake_azure: FakeAzure) -> None:
    FunctionApps("shop-rg", environment={"PATH": path_of(fake_azure)}).set_disabled(
        "shop-140", ["NIGHTLY"], disabled=True
    )
    assert quiescing.release_functions.set_disabled(RELEASE, disabled=True).changed == ("Send_Invoices",)


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_change_that_failed_can_be_repeated(
    quiescing: QuiescedRelease, fake_azure: FakeAzure, *, takes_effect: bool
) -> None:
    fake_azure.set_fault("appsettings set", takes_effect=takes_effect, call_count=1)
    with pytest.raises(AzureUnavailable):
        quiescing.release_functions.quiesce(RELEASE)
    quiescing.release_functions.quiesce(RELEASE)
    assert set(fake_azure.settings("shop-140").values()) == {"true"}
    assert fake_azure.count_restarts("shop-140") == 1


def test_a_release_without_a_function_app_is_named(quiescing: QuiescedRelease) -> None:
    with pytest.raises(FunctionAppNotFound, match=r"^release 1\.3\.0: no Function App in resource group 'shop-rg'"):
        quiescing.release_functions.quiesce(GONE)


def test_a_function_with_a_hyphen_is_refused(fake_azure: FakeAzure) -> None:
    function_apps = FunctionApps("shop-rg", environment={"PATH": path_of(fake_azure)})
    with pytest.raises(UsageError, match="'Send-Invoices' cannot be disabled: on Linux"):
        ReleaseFunctions(function_apps, ["Send-Invoices"], report=print)
