"""Swaps, as pipelines run them: real processes, a real server, and a platform that does
what it is told, or does not. Whatever happens, record and platform agree in the end, or the swap is pending.
"""

import shlex
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from harness.processes import free_port, wait_until
from state_api.settings import StorageSettings
from tests.conftest import new_hub_name
from tests.safe_deploy.assertions import (
    OTHER_RUN,
    SIGNALS,
    SLOTS,
    assert_exit,
    find_outcome_command,
    is_written,
    make_touch_command,
    run_stage,
)
from tests.safe_deploy.deployment_fixture import (
    LIST_SETTINGS_COMMAND,
    RESOURCE_GROUP,
    RUN,
    ConnectionProxy,
    DeploymentFixture,
    ForkServer,
    Request,
    RunningCli,
    create_deployment_fixture,
    is_process_group_gone,
    open_admin_client,
)
from tests.safe_deploy.processes import KEYS, safe_deploy, server_key_entries, state_server

# --- swap ---


def test_a_swap_is_recorded_carried_out_and_confirmed(staged: DeploymentFixture) -> None:
    assert_exit(staged.run(staged.swap()), 0)
    assert staged.is_swapped()
    assert (staged.count_swaps(), staged.open_deployment_hub()) == (1, None)
    assert staged.reported_outcomes() == ["Pending", "Done"]


def test_the_program_itself_swaps_and_rolls_back(staged: DeploymentFixture) -> None:
    given = {"SAFE_DEPLOY_SERVER": staged.url, "SAFE_DEPLOY_APP": staged.app, "SAFE_DEPLOY_RUN_URL": RUN}
    given |= {"SAFE_DEPLOY_KEY": KEYS["deployer"], "PATH": f"{staged.path}:/usr/bin:/bin"}
    assert_exit(safe_deploy(*staged.swap(), given=given), 0)
    assert staged.is_swapped()
    assert_exit(safe_deploy(*staged.rollback(), given=given), 0)
    assert staged.is_unswapped()


def test_the_record_is_pending_while_the_platform_swaps_and_nobody_else_can_stage(staged: DeploymentFixture) -> None:
    go = staged.folder / "go"
    command = f"while ! test -e {go}; do sleep 0.05; done; {shlex.join(staged.az_swap)}"
    running = staged.start(staged.swap("sh", "-c", command))
    wait_until(lambda: staged.pending_hub() == staged.new, "the swap is pending")
    assert_exit(
        staged.run(["stage", "--task-hub", new_hub_name(), "--force", "--reason", "test"], run_url=OTHER_RUN), 6
    )
    go.touch()
    assert_exit(running.wait_for_result(), 0)
    assert staged.is_swapped()


def test_a_command_that_fails_leaves_everything_as_it_was_and_the_run_can_try_again(staged: DeploymentFixture) -> None:
    staged.fake_azure.fault("swap", code=3, times=1)
    ended = staged.run(staged.swap())
    assert_exit(ended, 1, "ended with exit code 3", "watching Azure for 1 s", "The record is reverted")
    assert staged.is_unswapped()
    assert staged.open_deployment_hub() == staged.new
    assert_exit(staged.run(staged.swap()), 0)
    assert staged.is_swapped()
    assert staged.reported_outcomes() == ["Pending", "Failed", "Pending", "Done"]


def test_a_command_that_fails_after_the_platform_has_swapped_is_told_and_the_swap_is_confirmed(
    staged: DeploymentFixture,
) -> None:
    staged.fake_azure.fault("swap", done=True, times=1)
    assert_exit(staged.run(staged.swap()), 1, f"production has task hub {staged.new}: the swap is done and on record")
    assert staged.is_swapped()
    assert_exit(staged.run(staged.swap()), 0, "in production already")
    assert staged.count_swaps() == 1


@pytest.mark.long
def test_a_command_that_fails_while_azure_goes_on_with_the_swap_is_watched_until_it_has_come(
    staged: DeploymentFixture,
) -> None:
    later = f"(sleep 0.5; exec {shlex.join(staged.az_swap)}) >/dev/null 2>&1 & exit 1"
    options = ["--resource-group", RESOURCE_GROUP, "--stabilization-window", "20"]
    assert_exit(staged.run(staged.swap("sh", "-c", later, options=options)), 1, "the swap is done and on record")
    assert staged.is_swapped()


def test_a_command_that_is_ended_by_a_signal_without_a_name_is_no_riddle(staged: DeploymentFixture) -> None:
    group = ["--resource-group", RESOURCE_GROUP]
    assert_exit(staged.run(staged.swap("sh", "-c", "kill -35 $$", options=group)), 1, "signal 35", "is reverted")
    assert staged.is_unswapped()


def test_a_command_that_ends_well_and_has_swapped_nothing_leaves_the_swap_pending(staged: DeploymentFixture) -> None:
    group = ["--resource-group", RESOURCE_GROUP]
    ended = staged.run(staged.swap("true", options=group), retry_for=30)
    assert_exit(ended, 6, "has not swapped the slots, or Azure does not show it yet")
    assert staged.pending_hub() == staged.new
    assert staged.azure_hubs() == (staged.old, staged.new)
    assert_exit(staged.run_command_line(find_outcome_command(ended, "failed")), 0)
    assert staged.is_unswapped()
    assert staged.open_deployment_hub() == staged.new


@pytest.mark.parametrize("verb", ["stage", "swap", "rollback"])
def test_a_setting_that_stays_with_its_slot_is_found_out_before_anything_is_changed(
    swapped: DeploymentFixture, verb: str
) -> None:
    slots = {
        "production": {"settings": {"TASK_HUB": swapped.new}},
        "staging": {"settings": {"TASK_HUB": swapped.old}},
    }
    swapped.fake_azure.reset({swapped.app: {"resourceGroup": RESOURCE_GROUP, "sticky": ["TASK_HUB"], "slots": slots}})
    swapped.old, swapped.new = swapped.new, swapped.old
    group = ["--resource-group", RESOURCE_GROUP]
    arguments = {"stage": ["stage", "--task-hub", new_hub_name(), *group], "swap": swapped.swap()}
    assert_exit(swapped.run(arguments.get(verb, swapped.rollback())), 6, "is slot-sticky")
    assert swapped.is_unswapped()
    assert swapped.count_swaps() == 0


def test_what_production_carries_must_be_known_before_it_is_swapped_out(staged: DeploymentFixture) -> None:
    other = DeploymentFixture(
        staged.server,
        staged.run_fork_server,
        staged.url,
        f"{staged.app}x",
        staged.folder,
        staged.fake_azure,
        staged.old,
        staged.new,
    )
    other.old, other.new = new_hub_name(), new_hub_name()
    slots = {"production": {"settings": {"TASK_HUB": other.old}}, "staging": {"settings": {}}}
    other.fake_azure.reset({other.app: {"resourceGroup": RESOURCE_GROUP, "slots": slots}})
    ended = run_stage(other)
    assert_exit(
        ended, 6, "the server has no task hub on record there", f"register --server {other.url} --app {other.app}"
    )
    assert staged.server.get(f"/api/apps/{other.app}").status_code == 404
    other.stage()
    assert_exit(other.run(other.swap()), 6, "the server has no task hub on record there")
    assert other.count_swaps() == 0


def test_nothing_is_begun_where_the_platform_cannot_be_looked_at(staged: DeploymentFixture) -> None:
    staged.fake_azure.fault("appsettings list")
    assert_exit(staged.run(staged.swap()), 1, "az failed")
    staged.fake_azure.clear_faults()
    assert staged.is_unswapped()
    assert (staged.count_swaps(), staged.reported_outcomes()) == (0, [])


@pytest.mark.parametrize("platform_swapped", [False, True])
def test_who_cannot_look_after_a_failure_leaves_the_swap_pending_and_says_what_to_type(
    staged: DeploymentFixture, platform_swapped: bool
) -> None:
    # From the failure on, az does not look any more.
    state = shlex.quote(str(staged.fake_azure.path))
    breaks = (
        "import json,sys;p=sys.argv[1];s=json.load(open(p));"
        "s['faults']['appsettings list']={'exit':1};f=open(p,'w');json.dump(s,f);f.close()"
    )
    swap = f"{shlex.join(staged.az_swap)};" if platform_swapped else ""
    command = f"{swap} {sys.executable} -W ignore -c {shlex.quote(breaks)} {state}; exit 4"
    ended = staged.run(staged.swap("sh", "-c", command, options=["--resource-group", RESOURCE_GROUP]))
    assert_exit(ended, 6, "Azure could not be queried", "pending")
    assert staged.pending_hub() == staged.new
    staged.fake_azure.clear_faults()
    assert_exit(staged.run_command_line(find_outcome_command(ended, "done" if platform_swapped else "failed")), 0)
    assert staged.is_swapped() if platform_swapped else staged.is_unswapped()


def test_where_nobody_can_look_a_command_that_fails_leaves_the_swap_pending(staged: DeploymentFixture) -> None:
    ended = staged.run(staged.swap("sh", "-c", "exit 9"), az=False)
    assert_exit(ended, 6, "exit code 9", "Azure could not be queried", "pending")
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run_command_line(find_outcome_command(ended, "failed")), 0)
    assert staged.is_unswapped()
    assert_exit(staged.run(staged.swap("sh", "-c", " ".join(staged.az_swap))), 0)
    assert staged.is_swapped()


@pytest.mark.parametrize("verb", ["swap", "rollback"])
@pytest.mark.parametrize("both", [False, True])
def test_without_a_command_it_must_be_said_how_the_swap_went_and_with_one_it_must_not(
    swapped: DeploymentFixture, verb: str, both: bool
) -> None:
    arguments = [verb, "--task-hub", swapped.old, *(["--outcome", "done", "--", "true"] if both else [])]
    assert_exit(swapped.run(arguments), 2, "--outcome")
    assert swapped.is_swapped()


def test_a_run_without_an_address_does_not_run_a_pending_swap_again(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending", None)
    group = ["--resource-group", RESOURCE_GROUP]
    command, mark = make_touch_command(staged)
    assert_exit(staged.run(staged.swap(*command, options=group), run_url=None), 6, "has not reported its outcome")
    assert not mark.exists()
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    assert_exit(staged.run(staged.swap(*command, options=group), run_url=None), 0)
    assert staged.is_swapped()


def test_a_swap_that_was_cut_off_and_comes_late_is_not_run_again(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    running = staged.start(staged.swap(options=["--stabilization-window", "30"]))
    wait_until(lambda: "watching Azure" in running.err.read_text(), "it watches")
    assert staged.count_swaps() == 0
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    assert_exit(running.wait_for_result(), 0, "the command was not run")
    assert staged.is_swapped()
    assert staged.count_swaps() == 0


def test_where_nobody_can_look_a_swap_that_was_cut_off_waits_for_a_person(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    command, mark = make_touch_command(staged)
    ended = staged.run(staged.swap(*command))
    assert_exit(ended, 6, "has not reported its outcome", staged.new, staged.old)
    assert not mark.exists()
    assert_exit(staged.run_command_line(find_outcome_command(ended, "done").replace("done", "failed")), 0)
    assert staged.is_unswapped()


@pytest.mark.parametrize("looks", [False, True])
def test_a_command_that_does_not_exist_leaves_the_record_as_it_was(staged: DeploymentFixture, looks: bool) -> None:
    group = ["--resource-group", RESOURCE_GROUP] if looks else []
    assert_exit(
        staged.run(staged.swap("no-such-command", options=group)),
        2,
        "cannot run no-such-command",
        "record is unchanged",
    )
    assert staged.is_unswapped()
    assert staged.open_deployment_hub() == staged.new


def test_a_command_that_does_not_exist_says_nothing_about_a_swap_that_was_cut_off(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    assert_exit(
        staged.run(staged.swap("no-such-command", options=["--resource-group", RESOURCE_GROUP])), 2, "stays pending"
    )
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run(staged.swap()), 0)
    assert staged.is_swapped()


@pytest.mark.parametrize(
    "options", [["--slot", "canary"], ["--resource-group", "other-rg"], ["--function-app", "other", "-g"]]
)
def test_a_command_that_swaps_something_else_than_the_options_say_is_refused(
    staged: DeploymentFixture, options: list[str]
) -> None:
    given = [*options[:2], "--resource-group", RESOURCE_GROUP] if "-g" in options else options
    assert_exit(staged.run(staged.swap(options=given)), 2, "the command swaps")
    assert staged.is_unswapped()
    assert (staged.count_swaps(), staged.reported_outcomes()) == (0, [])


@pytest.mark.parametrize(
    ("carries", "said"),
    [
        ({"staging": "v99"}, "but in Azure it has v99"),
        ({"staging": ""}, "but in Azure it has no task hub"),
        ({"production": "v99"}, "in Azure production has v99"),
    ],
)
def test_where_the_platform_is_not_as_the_server_has_it_nothing_is_begun(
    staged: DeploymentFixture, carries: dict[str, str], said: str
) -> None:
    apps = {slot: {"settings": {"TASK_HUB": hub}} for slot, hub in zip(SLOTS, staged.azure_hubs(), strict=True)}
    apps |= {slot: {"settings": {"TASK_HUB": hub} if hub else {}} for slot, hub in carries.items()}
    staged.fake_azure.reset({staged.app: {"resourceGroup": RESOURCE_GROUP, "slots": apps}})
    assert_exit(staged.run(staged.swap()), 6, said)
    assert (staged.count_swaps(), staged.reported_outcomes()) == (0, [])
    assert staged.recorded_hubs() == (staged.old, staged.new)


@pytest.mark.parametrize("looks", [False, True])
def test_what_is_in_production_already_is_not_swapped_again(swapped: DeploymentFixture, looks: bool) -> None:
    command, mark = make_touch_command(swapped)
    group = ["--resource-group", RESOURCE_GROUP] if looks else []
    assert_exit(swapped.run(swapped.swap(*command, options=group)), 0, "in production already")
    assert not mark.exists()
    assert swapped.is_swapped()


def test_what_only_the_server_has_in_production_is_a_conflict(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Done")
    command, mark = make_touch_command(staged)
    assert_exit(
        staged.run(staged.swap(*command, options=["--resource-group", RESOURCE_GROUP])), 6, "without the server"
    )
    assert not mark.exists()


def test_what_only_the_platform_has_in_production_is_put_on_record(staged: DeploymentFixture) -> None:
    staged.set_slot_task_hubs(production=staged.new, staging=staged.old)
    command, mark = make_touch_command(staged)
    assert_exit(
        staged.run(staged.swap(*command, options=["--resource-group", RESOURCE_GROUP])), 0, "the command was not run"
    )
    assert not mark.exists()
    assert staged.is_swapped()


def test_a_hub_that_is_not_in_the_slot_is_refused_by_the_server(deployment_fixture: DeploymentFixture) -> None:
    command, mark = make_touch_command(deployment_fixture)
    assert_exit(deployment_fixture.run(deployment_fixture.swap(*command)), 6, deployment_fixture.new)
    assert not mark.exists()
    assert deployment_fixture.reported_outcomes() == []


@pytest.mark.parametrize("looks", [False, True])
def test_the_pending_swap_of_another_run_is_left_alone(staged: DeploymentFixture, looks: bool) -> None:
    staged.report_swap(staged.new, "Pending")
    command, mark = make_touch_command(staged)
    group = ["--resource-group", RESOURCE_GROUP] if looks else []
    assert_exit(staged.run(staged.swap(*command, options=group), run_url=OTHER_RUN), 6, staged.new)
    assert not mark.exists()
    assert staged.pending_hub() == staged.new
    assert staged.reported_outcomes() == ["Pending"]


def test_of_two_runs_that_swap_at_once_only_one_reaches_the_platform(staged: DeploymentFixture) -> None:
    """The platform swaps once one of the runs has given up. A run that comes after the swap would find it done."""
    may_swap = staged.folder / "may-swap"
    staged.fake_azure.fault("swap", code=None, until=str(may_swap))
    runs = [staged.start(staged.swap(), run_url=url) for url in ("https://ci.example/a", "https://ci.example/b")]
    wait_until(lambda: any(running.ended() for running in runs), "one of the runs gives up")
    may_swap.touch()
    assert sorted(running.wait_for_result().code for running in runs) == [0, 6]
    assert staged.count_swaps() == 1
    assert staged.is_swapped()


def test_what_was_ended_by_somebody_since_the_look_is_not_run_again(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    staged.report_swap(staged.new, "Pending")

    def confirm(number: int, request: Request) -> bool:
        if number == 2:
            # The run that was thought dead has swapped, and says so.
            subprocess.run([staged.path / "az", *staged.az_swap[1:]], check=True)
            staged.report_swap(staged.new, "Done")
        return False

    connection_proxy.cut_before_request = confirm
    assert_exit(staged.run(staged.swap()), 0, "in production already")
    assert staged.count_swaps() == 1
    assert staged.is_swapped()


def test_an_app_that_somebody_changes_at_the_same_moment_is_looked_at_again(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    def change(number: int, request: Request) -> bool:
        if number == 2:
            staged.server.put(f"/api/apps/{staged.app}", json={"policy": {"settleSeconds": 7}})
        return False

    connection_proxy.cut_before_request = change
    assert_exit(staged.run(staged.swap()), 0)
    assert connection_proxy.requests.count(("GET", f"/api/apps/{staged.app}")) == 2
    assert staged.is_swapped()


def test_an_app_that_is_changed_again_and_again_is_given_up_before_anything_is_begun(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    def change(number: int, request: Request) -> bool:
        if request[0] == "POST":
            staged.server.put(f"/api/apps/{staged.app}", json={"policy": {"settleSeconds": number}})
        return False

    connection_proxy.cut_before_request = change
    assert_exit(staged.run(staged.swap()), 6, "by other callers 3 times")
    assert staged.is_unswapped()
    assert staged.count_swaps() == 0


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("reached", [False, True])
def test_a_connection_that_is_cut_changes_nothing(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, number: int, reached: bool
) -> None:
    def cut(at: int, request: Request) -> bool:
        return at == number

    if reached:
        connection_proxy.cut_before_response = cut
    else:
        connection_proxy.cut_before_request = cut
    assert_exit(staged.run(staged.swap()), 0, "trying again")
    assert staged.is_swapped()
    assert staged.count_swaps() == 1


# --- a server that is away ---


@pytest.mark.long
def test_a_server_that_is_restarted_during_the_swap_is_told_all_the_same(
    storage: StorageSettings, fork_server: ForkServer, tmp_path: Path, app: str
) -> None:
    port = free_port()
    with state_server(storage, tmp_path, server_key_entries(), port) as served, open_admin_client(served.url) as client:
        deployment_fixture = create_deployment_fixture(client, fork_server, tmp_path, app)
        deployment_fixture.stage()
        go = tmp_path / "go"
        command = f"while ! test -e {go}; do sleep 0.05; done; {shlex.join(deployment_fixture.az_swap)}"
        running = deployment_fixture.start(
            deployment_fixture.swap("sh", "-c", command, options=["--resource-group", RESOURCE_GROUP])
        )
        wait_until(lambda: deployment_fixture.pending_hub() == deployment_fixture.new, "the swap is pending")
        served.stop()
        go.touch()
        wait_until(lambda: "trying again" in running.err.read_text(), "the server is missed")
    with state_server(storage, tmp_path, server_key_entries(), port) as served, open_admin_client(served.url) as client:
        deployment_fixture.server = client
        assert_exit(running.wait_for_result(), 0)
        assert deployment_fixture.is_swapped()


@pytest.mark.parametrize("works", [False, True])
def test_a_server_that_stays_away_leaves_the_swap_pending_and_it_is_said_what_to_type(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, works: bool
) -> None:
    def away(number: int, request: Request) -> bool:
        return number >= 3

    connection_proxy.cut_before_request = away
    if not works:
        staged.fake_azure.fault("swap", times=1)
    ended = staged.run(staged.swap(), retry_for=0.5)
    carried = staged.new if works else staged.old
    assert_exit(ended, 1, f"production has {carried}", f"the swap of task hub {staged.new} into production is pending")
    assert staged.pending_hub() == staged.new
    connection_proxy.clear()
    assert_exit(staged.run_command_line(find_outcome_command(ended, "done" if works else "failed")), 0)
    assert staged.is_swapped() if works else staged.is_unswapped()


def test_a_server_that_goes_away_before_the_record_was_made_leaves_the_platform_alone(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy
) -> None:
    def away(number: int, request: Request) -> bool:
        return number >= 2

    connection_proxy.cut_before_request = away
    assert_exit(staged.run(staged.swap(), retry_for=0.5), 1, "The command was not run. Run the same command again")
    assert staged.count_swaps() == 0
    assert staged.is_unswapped()


# --- signals ---


@SIGNALS
def test_who_stops_it_before_the_command_begins_finds_everything_as_it_was(
    staged: DeploymentFixture, number: signal.Signals
) -> None:
    staged.fake_azure.fault("appsettings list", code=None, delay=0.4, times=1)
    running = staged.start(staged.swap())
    wait_until(lambda: staged.fake_azure.count_calls(LIST_SETTINGS_COMMAND) == 1, "it looks")
    running.send(number)
    assert_exit(running.wait_for_result(), 1, "stopped before the command was run")
    assert staged.is_unswapped()
    assert (staged.count_swaps(), staged.open_deployment_hub()) == (0, staged.new)


def test_who_stops_it_before_a_swap_that_was_cut_off_is_run_again_leaves_it_pending(staged: DeploymentFixture) -> None:
    staged.report_swap(staged.new, "Pending")
    staged.fake_azure.fault("appsettings list", code=None, delay=0.4, times=1)
    running = staged.start(staged.swap())
    wait_until(lambda: staged.fake_azure.count_calls(LIST_SETTINGS_COMMAND) == 1, "it looks")
    running.send(signal.SIGTERM)
    assert_exit(running.wait_for_result(), 6, "has not reported its outcome")
    assert staged.pending_hub() == staged.new
    assert staged.count_swaps() == 0


@SIGNALS
def test_who_stops_the_platforms_swap_leaves_it_pending_because_azure_may_go_on(
    staged: DeploymentFixture, number: signal.Signals
) -> None:
    staged.fake_azure.fault("swap", code=None, delay=60, times=1)
    running = staged.start(staged.swap())
    wait_until(lambda: staged.count_swaps() == 1, "the platform swaps")
    running.send(number)
    ended = running.wait_for_result()
    assert_exit(ended, 6, "Azure continues a swap that it has accepted")
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run(staged.swap()), 0)
    assert staged.is_swapped()


def test_who_stops_the_command_after_the_platform_has_swapped_has_it_confirmed(staged: DeploymentFixture) -> None:
    staged.fake_azure.fault("swap", code=None, delay_after=60, times=1)
    running = staged.start(staged.swap())
    wait_until(lambda: staged.azure_hubs() == (staged.new, staged.old), "the platform has swapped")
    running.send(signal.SIGTERM)
    assert_exit(running.wait_for_result(), 1, "the swap is done and on record")
    assert staged.is_swapped()


@SIGNALS
def test_what_the_command_has_started_is_not_left_running(staged: DeploymentFixture, number: signal.Signals) -> None:
    group = staged.folder / "group"
    running = staged.start(staged.swap("sh", "-c", f"sleep 30 & echo $$ > {group}; exec sleep 30"))
    wait_until(lambda: is_written(group), "the command runs")
    running.send(number)
    ended = running.wait_for_result()
    assert ended.code == 6, ended.stderr
    wait_until(lambda: is_process_group_gone(int(group.read_text())), "nothing of the command is left")
    assert staged.pending_hub() == staged.new
    assert_exit(staged.run_command_line(find_outcome_command(ended, "failed")), 0)
    assert staged.is_unswapped()


def test_who_asks_twice_kills_a_command_that_does_not_listen(staged: DeploymentFixture) -> None:
    group = staged.folder / "group"
    deaf = f"trap '' INT TERM; echo $$ > {group}; sleep 30; sleep 30"
    running = staged.start(staged.swap("sh", "-c", deaf, options=["--resource-group", RESOURCE_GROUP]))
    wait_until(lambda: is_written(group), "the command runs")
    running.send(signal.SIGINT)
    running.send(signal.SIGTERM)
    assert_exit(running.wait_for_result(), 6, "was ended by SIGKILL")
    wait_until(lambda: is_process_group_gone(int(group.read_text())), "nothing of the command is left")
    assert staged.pending_hub() == staged.new


@pytest.mark.parametrize(("signals", "ended"), [(["SIGINT"], "SIGTERM"), (["SIGINT", "SIGTERM"], "SIGKILL")])
def test_what_comes_before_there_is_a_command_reaches_it(signals: list[str], ended: str) -> None:
    """The command may run already when its process is not known yet."""
    early = f"""
        import os, signal
        from safe_deploy.subprocesses import Command, SignalGuard
        with SignalGuard() as guard:
            for number in {signals}:
                os.kill(os.getpid(), getattr(signal, number))
            print(guard.run(Command(["sleep", "60"], os.environ)))
    """
    python = [sys.executable, "-c", textwrap.dedent(early)]
    said = subprocess.check_output(python, stdin=subprocess.DEVNULL, text=True, timeout=60)
    assert said == f"was ended by {ended}\n"


@SIGNALS
def test_who_stops_it_while_it_tells_the_server_does_not_stop_it(
    staged: DeploymentFixture, connection_proxy: ConnectionProxy, number: signal.Signals
) -> None:
    known = threading.Event()
    running: list[RunningCli] = []

    def stop(at: int, request: Request) -> bool:
        if at == 3:
            assert known.wait(60)
            running[0].send(number)
        return False

    connection_proxy.cut_before_request = stop
    running.append(staged.start(staged.swap()))
    known.set()
    assert_exit(running[0].wait_for_result(), 0)
    assert staged.is_swapped()


# --- secrets ---


def test_no_command_gets_the_key_and_every_command_gets_hub_and_version(staged: DeploymentFixture) -> None:
    seen = staged.folder / "seen"
    assert_exit(staged.run(staged.swap("sh", "-c", f"env > {seen}", options=["--version", "4.2"])), 0)
    env = seen.read_text()
    assert not any(key in env for key in KEYS.values())
    assert "SAFE_DEPLOY_KEY" not in env
    assert f"SAFE_DEPLOY_TASK_HUB={staged.new}\n" in env
    assert "SAFE_DEPLOY_VERSION=4.2\n" in env


def test_az_gets_no_key_either(staged: DeploymentFixture) -> None:
    assert_exit(staged.run(staged.swap()), 0)
    assert staged.fake_azure.environments
    assert not any("SAFE_DEPLOY_KEY" in names for names in staged.fake_azure.environments)
