"""`safe-deploy promote` and `rollback` of releases side by side, as pipelines run them."""

from pathlib import Path

import pytest

from safe_deploy.errors import ExitCode
from state_api.settings import StorageSettings
from tests.safe_deploy.assertions import OTHER_RUN, assert_exit
from tests.safe_deploy.ci_systems import github_environment, read_outputs
from tests.safe_deploy.connection_proxy import ConnectionProxy, Request
from tests.safe_deploy.doctor_runner import PROVIDER_CONFIG, create_provider_hub
from tests.safe_deploy.release_fixture import ReleaseFixture, address_of

PROMOTE = ["promote", "--version", "1.1"]
ROLLBACK = ["rollback"]


@pytest.fixture
def two_releases(releases: ReleaseFixture) -> ReleaseFixture:
    """Release 1.0 is active, and 1.1 is staged."""
    releases.register_and_promote("1.0")
    releases.register("1.1")
    return releases


@pytest.fixture
def promoted(two_releases: ReleaseFixture) -> ReleaseFixture:
    """Release 1.1 is active, and 1.0 was before."""
    two_releases.route("1.1")
    return two_releases


@pytest.fixture
def adopted(promoted: ReleaseFixture) -> ReleaseFixture:
    """Release 1.1 is active, and 0.9 is adopted while it is."""
    adopt(promoted, "0.9")
    assert promoted.states()["0.9"] == "Serving"
    return promoted


def adopt(releases: ReleaseFixture, version: str) -> None:
    """Let an administrator adopt a release, whose visitors use its own address."""
    release = {"taskHub": releases.task_hub_of(version), "address": address_of(version)}
    releases.create(releases={version: release})


def test_a_promotion_gives_all_requests_to_the_release_and_repeating_it_changes_nothing(
    two_releases: ReleaseFixture,
) -> None:
    assert_exit(two_releases.run(PROMOTE), ExitCode.DONE, "no router asks under a name")
    assert two_releases.states() == {"1.0": "Draining", "1.1": "Serving"}
    assert_exit(two_releases.run(PROMOTE), ExitCode.DONE, "release 1.1 is active already")
    assert len(two_releases.history("PutRouting")) == 2


def test_a_promotion_ends_a_split(two_releases: ReleaseFixture) -> None:
    two_releases.route("1.0", {"1.0": 90, "1.1": 10})
    assert_exit(two_releases.run(["promote", "--version", "1.0"]), ExitCode.DONE)
    assert two_releases.get_app()["routing"]["split"] is None


def test_a_promotion_of_an_unknown_release_says_what_the_server_says(two_releases: ReleaseFixture) -> None:
    assert_exit(two_releases.run(["promote", "--version", "9"]), ExitCode.FAILURE, "has no release 9")


@pytest.mark.parametrize("command", ["promote", "retire", "release"])
def test_an_app_that_is_not_set_up_is_not_registered_with_slots(releases: ReleaseFixture, command: str) -> None:
    arguments = {"promote": PROMOTE, "retire": releases.retire(), "release": releases.release("1.0")}[command]
    releases.cli.app = f"{releases.app}-unknown"
    result = releases.run(arguments)
    assert_exit(result, ExitCode.FAILURE, "safe-deploy register --create --model sideBySide")
    assert "registers its task hub in production" not in result.stderr


def test_a_promotion_of_a_release_that_is_being_removed_is_refused(promoted: ReleaseFixture) -> None:
    promoted.let_routers_stop()
    promoted.request("DELETE", "/releases/1.0", params={"outcome": "Pending"})
    assert_exit(promoted.run(["promote", "--version", "1.0"]), ExitCode.CONFLICT, "has been removing release 1.0")


def test_a_release_that_has_not_started_is_not_promoted(releases: ReleaseFixture, storage: StorageSettings) -> None:
    releases.create(taskHubs=PROVIDER_CONFIG)
    releases.register("1.1")
    assert_exit(releases.run(PROMOTE), ExitCode.CONFLICT, "its Function App has not started")
    create_provider_hub(storage, releases.task_hub_of("1.1"))
    assert_exit(releases.run(PROMOTE), ExitCode.DONE)


def test_a_promotion_names_the_routers_that_are_behind(two_releases: ReleaseFixture, tmp_path: Path) -> None:
    revision = two_releases.get_app()["routing"]["revision"]
    for router in ("envoy-1", "envoy-2"):
        two_releases.acknowledge(router, revision)
    late = two_releases.run([*PROMOTE, "--timeout", "0"], **github_environment(tmp_path))
    assert_exit(late, ExitCode.TIMED_OUT, "have not confirmed revision", "envoy-1 (asked last at", "envoy-2 (")
    outputs = read_outputs(tmp_path)
    new_revision = two_releases.get_app()["routing"]["revision"]
    assert outputs == {
        "active-version": "1.1",
        "previous-version": "1.0",
        "routing-revision": str(new_revision),
        "routers-behind": "envoy-1,envoy-2",
    }
    for router in ("envoy-1", "envoy-2"):
        two_releases.acknowledge(router, new_revision)
    assert_exit(two_releases.run([*PROMOTE, "--timeout", "0"]), ExitCode.DONE, "all routers")


def test_a_promotion_waits_until_a_router_confirms_it(
    two_releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    two_releases.acknowledge("envoy-1", two_releases.get_app()["routing"]["revision"])

    def acknowledge_at_second_look(number: int, request: Request) -> bool:
        """Let the router confirm the revision when the CLI looks for the second time."""
        if releases_proxy.requests.count(("GET", f"/api/apps/{two_releases.app}/releases")) == 2:
            two_releases.acknowledge("envoy-1", two_releases.get_app()["routing"]["revision"])
        return False

    releases_proxy.cut_before_request = acknowledge_at_second_look
    assert_exit(
        two_releases.run(PROMOTE), ExitCode.DONE, "waiting until the routers", "1 behind: envoy-1", "all routers"
    )


@pytest.mark.parametrize("command", [PROMOTE, ["rollback", "--version", "1.0"]], ids=["promote", "rollback"])
def test_another_caller_who_changes_the_traffic_first_wins(
    two_releases: ReleaseFixture, releases_proxy: ConnectionProxy, command: list[str]
) -> None:
    two_releases.register("1.2")
    if command is not PROMOTE:
        two_releases.route("1.1")

    def route_first(number: int, request: Request) -> bool:
        """Let another caller change the traffic just before the CLI does."""
        if request[0] == "PUT":
            two_releases.route("1.2")
        return False

    releases_proxy.cut_before_request = route_first
    result = two_releases.run(command)
    assert_exit(result, ExitCode.CONFLICT, "release 1.2 is active now", "stays so")
    assert two_releases.active() == "1.2"


def test_a_release_that_is_registered_meanwhile_does_not_stop_a_promotion(
    two_releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def register_first(number: int, request: Request) -> bool:
        """Register another release just before the CLI changes the traffic."""
        if request[0] == "PUT" and "1.2" not in two_releases.task_hubs:
            two_releases.register("1.2")
        return False

    releases_proxy.cut_before_request = register_first
    assert_exit(two_releases.run(PROMOTE), ExitCode.DONE)
    assert two_releases.states() == {"1.0": "Draining", "1.1": "Serving", "1.2": "Staged"}


def test_a_promotion_whose_response_is_lost_succeeds(
    two_releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    releases_proxy.cut_before_response = lambda number, request: (
        request[0] == "PUT" and [method for method, _ in releases_proxy.requests].count("PUT") == 1
    )
    assert_exit(two_releases.run(PROMOTE), ExitCode.DONE, "trying again")
    assert two_releases.active() == "1.1"


def test_a_rollback_is_not_undone_by_a_promotion_whose_response_was_lost(
    two_releases: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    """The requests are divided as before the promotion then, but not because it had no effect."""

    def roll_back_and_lose_response(number: int, request: Request) -> bool:
        """Let another caller give the traffic back before the CLI knows that it has changed it."""
        if request[0] != "PUT" or two_releases.active() == "1.0":
            return False
        two_releases.route("1.0")
        return True

    releases_proxy.cut_before_response = roll_back_and_lose_response
    result = two_releases.run(PROMOTE)
    assert_exit(result, ExitCode.CONFLICT, "trying again", "release 1.0 is active now, and stays so")
    assert two_releases.active() == "1.0"


@pytest.mark.parametrize("command", [PROMOTE, ["rollback", "--version", "1.0"]], ids=["promote", "rollback"])
def test_a_release_that_is_adopted_meanwhile_keeps_its_protection(
    two_releases: ReleaseFixture, releases_proxy: ConnectionProxy, command: list[str]
) -> None:
    """Its visitors use its own address, which the caller did not know of. A change of the routing ends its use."""
    if command is not PROMOTE:
        two_releases.route("1.1")

    def adopt_first(number: int, request: Request) -> bool:
        """Let an administrator adopt a release just before the CLI changes the traffic."""
        if request[0] == "PUT" and "0.9" not in two_releases.task_hubs:
            adopt(two_releases, "0.9")
        return False

    active = two_releases.active()
    releases_proxy.cut_before_request = adopt_first
    result = two_releases.run(command)
    assert_exit(result, ExitCode.CONFLICT, "has adopted release 0.9", "The routing was not changed")
    assert (two_releases.active(), two_releases.states()["0.9"]) == (active, "Serving")
    assert_exit(two_releases.run(command), ExitCode.DONE)


def test_a_promotion_of_the_active_release_ends_the_use_of_an_adopted_one(adopted: ReleaseFixture) -> None:
    result = adopted.run(PROMOTE)
    assert_exit(
        result, ExitCode.DONE, "release 1.1 is active already, and keeps all requests", "release 0.9, which was"
    )
    assert "the routing was not changed" not in result.stderr
    assert adopted.states() == {"0.9": "Draining", "1.0": "Draining", "1.1": "Serving"}
    assert_exit(adopted.run(PROMOTE), ExitCode.DONE, "so the routing was not changed")
    adopted.let_routers_stop()
    assert_exit(adopted.run(adopted.retire(options=["--version", "0.9"])), ExitCode.DONE)


def test_a_promotion_of_another_release_says_whose_use_it_ends(adopted: ReleaseFixture) -> None:
    result = adopted.run(["promote", "--version", "1.0"])
    assert_exit(result, ExitCode.DONE, "release 0.9, which was adopted, counts as without traffic")
    assert adopted.states()["0.9"] == "Draining"


def test_a_repeated_rollback_does_not_end_the_use_of_an_adopted_release(adopted: ReleaseFixture) -> None:
    assert_exit(adopted.run([*ROLLBACK, "--version", "1.1"]), ExitCode.DONE, "so the routing was not changed")
    assert adopted.states()["0.9"] == "Serving"


def test_a_rollback_is_not_undone_by_a_rollback_after_the_use_of_an_adopted_release_was_ended(
    adopted: ReleaseFixture,
) -> None:
    adopted.route("1.0")
    adopt(adopted, "0.8")
    assert_exit(adopted.run(["promote", "--version", "1.0"]), ExitCode.DONE, "release 0.8, which was adopted")
    assert_exit(adopted.run(ROLLBACK), ExitCode.DONE, "release 1.0 is active already")
    assert adopted.active() == "1.0"


def test_the_use_of_an_adopted_release_can_be_ended_without_the_resource_group(adopted: ReleaseFixture) -> None:
    adopted.create(policy={"quiesceFunctions": ["NightlySync"]})
    result = adopted.run(PROMOTE)
    assert_exit(result, ExitCode.DONE, "warning: without --resource-group the functions NightlySync", "in release 0.9")
    assert adopted.states()["0.9"] == "Draining"


def test_a_release_that_is_adopted_while_the_use_of_another_is_ended_keeps_its_protection(
    adopted: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    def adopt_first(number: int, request: Request) -> bool:
        """Let an administrator adopt another release just before the CLI sets the routing."""
        if request[0] == "PUT" and "0.8" not in adopted.task_hubs:
            adopt(adopted, "0.8")
        return False

    releases_proxy.cut_before_request = adopt_first
    assert_exit(adopted.run(PROMOTE), ExitCode.CONFLICT, "has adopted release 0.8", "The routing was not changed")
    states = adopted.states()
    assert (states["0.8"], states["0.9"]) == ("Serving", "Serving")


def test_the_use_of_an_adopted_release_is_ended_although_another_release_is_registered_meanwhile(
    adopted: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    """The routing document has another ETag then, and the release is active as before."""

    def register_first(number: int, request: Request) -> bool:
        """Register a release just before the CLI sets the routing."""
        if request[0] == "PUT" and "1.2" not in adopted.task_hubs:
            adopted.register("1.2")
        return False

    releases_proxy.cut_before_request = register_first
    assert_exit(adopted.run(PROMOTE), ExitCode.DONE, "release 0.9, which was adopted")
    assert adopted.states()["0.9"] == "Draining"


def test_the_use_of_an_adopted_release_is_ended_once_if_the_response_is_lost(
    adopted: ReleaseFixture, releases_proxy: ConnectionProxy
) -> None:
    releases_proxy.cut_before_response = lambda number, request: (
        request[0] == "PUT" and [method for method, _ in releases_proxy.requests].count("PUT") == 1
    )
    assert_exit(adopted.run(PROMOTE), ExitCode.DONE, "trying again", "release 0.9, which was adopted")
    assert adopted.states()["0.9"] == "Draining"
    # Those of the fixture are the first two.
    assert len(adopted.history("PutRouting")) == 3


def test_a_rollback_goes_back_once(promoted: ReleaseFixture) -> None:
    assert_exit(promoted.run(ROLLBACK), ExitCode.DONE, "rolling back to release 1.0")
    assert promoted.active() == "1.0"
    assert_exit(promoted.run(ROLLBACK, run_url=OTHER_RUN), ExitCode.DONE, "release 1.0 is active already")
    assert promoted.active() == "1.0"


def test_the_audit_log_shows_that_a_change_is_a_rollback(promoted: ReleaseFixture) -> None:
    promoted.run(ROLLBACK)
    newest = promoted.request("GET", "/history", params={"top": 1})["history"][0]
    assert (newest["operation"], newest["reason"]) == ("PutRouting", "safe-deploy rollback")


def test_a_rollback_ignores_the_version_that_the_pipeline_deploys(promoted: ReleaseFixture) -> None:
    deployed = {"SAFE_DEPLOY_VERSION": "1.1", "SAFE_DEPLOY_TASK_HUB": promoted.task_hub_of("1.1")}
    assert_exit(promoted.run(ROLLBACK, **deployed), ExitCode.DONE)
    assert promoted.active() == "1.0"


def test_a_rollback_during_a_split_ends_it(two_releases: ReleaseFixture) -> None:
    two_releases.route("1.0", {"1.0": 90, "1.1": 10})
    for _ in range(2):
        assert_exit(two_releases.run(ROLLBACK), ExitCode.DONE)
        assert two_releases.states() == {"1.0": "Serving", "1.1": "Draining"}


def test_a_rollback_to_a_release_that_is_being_removed_is_refused(promoted: ReleaseFixture) -> None:
    promoted.let_routers_stop()
    promoted.request("DELETE", "/releases/1.0", params={"outcome": "Pending"})
    assert_exit(promoted.run(ROLLBACK), ExitCode.CONFLICT, "is being removed", "No other release")
    named = promoted.run([*ROLLBACK, "--version", "1.0"])
    assert_exit(named, ExitCode.CONFLICT, "has been removing release 1.0")
    assert promoted.active() == "1.1"


def test_a_rollback_to_a_release_that_was_adopted_needs_its_version(releases: ReleaseFixture) -> None:
    adopt(releases, "1.0")
    releases.register_and_promote("1.1")
    assert_exit(releases.run(ROLLBACK), ExitCode.CONFLICT, "nothing to roll back to", "name it with --version: 1.0")
    assert_exit(releases.run([*ROLLBACK, "--version", "1.0"]), ExitCode.DONE)
    assert releases.active() == "1.0"


def test_a_command_that_swaps_is_refused_for_releases_side_by_side(promoted: ReleaseFixture) -> None:
    assert_exit(promoted.run([*ROLLBACK, "--", "az", "swap"]), ExitCode.USAGE, "omit the command")
    assert promoted.active() == "1.1"


def test_an_app_with_slots_is_not_promoted(releases: ReleaseFixture) -> None:
    releases.cli.app = f"{releases.app}-slots"
    releases.request("PUT", "", json={})
    assert_exit(releases.run(PROMOTE), ExitCode.CONFLICT, "has slots")
    assert_exit(releases.run([*ROLLBACK, "--version", "1"]), ExitCode.USAGE, "has slots")


def test_functions_that_only_the_active_release_may_run_are_not_forgotten(two_releases: ReleaseFixture) -> None:
    two_releases.create(policy={"quiesceFunctions": ["NightlySync"]})
    assert_exit(two_releases.run(PROMOTE), ExitCode.USAGE, "NightlySync", "Add --resource-group")
    assert two_releases.active() == "1.0"
    two_releases.route("1.1")
    assert_exit(two_releases.run(ROLLBACK), ExitCode.DONE, "warning: without --resource-group")
    assert two_releases.active() == "1.0"
