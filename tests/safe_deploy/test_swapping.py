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

from dev.local import free_port, until
from state_api.settings import StorageSettings
from tests.conftest import new_hub
from tests.safe_deploy.endings import OTHER_RUN, SIGNALS, SLOTS, ends, stages, touch, typed, written
from tests.safe_deploy.processes import KEYS, roles, safe_deploy, state_server
from tests.safe_deploy.shop import (
    GROUP,
    LOOK,
    RUN,
    Request,
    Running,
    Shop,
    Starter,
    Way,
    admin,
    is_gone,
    open_shop,
)

# --- swap ---


def test_a_swap_is_recorded_carried_out_and_confirmed(staged: Shop) -> None:
    ends(staged.run(staged.swap()), 0)
    assert staged.is_swapped()
    assert (staged.swaps(), staged.deploying()) == (1, None)
    assert staged.told() == ["Pending", "Done"]


def test_the_program_itself_swaps_and_rolls_back(staged: Shop) -> None:
    given = {"SAFE_DEPLOY_SERVER": staged.url, "SAFE_DEPLOY_APP": staged.app, "SAFE_DEPLOY_RUN_URL": RUN}
    given |= {"SAFE_DEPLOY_KEY": KEYS["deployer"], "PATH": f"{staged.path}:/usr/bin:/bin"}
    ends(safe_deploy(*staged.swap(), given=given), 0)
    assert staged.is_swapped()
    ends(safe_deploy(*staged.rollback(), given=given), 0)
    assert staged.is_as_before()


def test_the_record_is_pending_while_the_platform_swaps_and_nobody_else_can_stage(staged: Shop) -> None:
    go = staged.folder / "go"
    command = f"while ! test -e {go}; do sleep 0.05; done; {shlex.join(staged.az_swap)}"
    running = staged.start(staged.swap("sh", "-c", command))
    until(lambda: staged.pending() == staged.new, "the swap is pending")
    ends(staged.run(["stage", "--task-hub", new_hub(), "--force", "--reason", "test"], run_url=OTHER_RUN), 6)
    go.touch()
    ends(running.end(), 0)
    assert staged.is_swapped()


def test_a_command_that_fails_leaves_everything_as_it_was_and_the_run_can_try_again(staged: Shop) -> None:
    staged.cloud.fault("swap", code=3, times=1)
    ended = staged.run(staged.swap())
    ends(ended, 1, "ended with exit code 3", "watching Azure for 1 s", "The record is swapped back")
    assert staged.is_as_before()
    assert staged.deploying() == staged.new
    ends(staged.run(staged.swap()), 0)
    assert staged.is_swapped()
    assert staged.told() == ["Pending", "Failed", "Pending", "Done"]


def test_a_command_that_fails_after_the_platform_has_swapped_is_told_and_the_swap_is_confirmed(staged: Shop) -> None:
    staged.cloud.fault("swap", done=True, times=1)
    ends(staged.run(staged.swap()), 1, f"production carries task hub {staged.new}: the swap is done, and on record")
    assert staged.is_swapped()
    ends(staged.run(staged.swap()), 0, "in production already")
    assert staged.swaps() == 1


@pytest.mark.long
def test_a_command_that_fails_while_azure_goes_on_with_the_swap_is_watched_until_it_has_come(staged: Shop) -> None:
    later = f"(sleep 0.5; exec {shlex.join(staged.az_swap)}) >/dev/null 2>&1 & exit 1"
    options = ["--resource-group", GROUP, "--settle", "20"]
    ends(staged.run(staged.swap("sh", "-c", later, options=options)), 1, "the swap is done, and on record")
    assert staged.is_swapped()


def test_a_command_that_is_ended_by_a_signal_without_a_name_is_no_riddle(staged: Shop) -> None:
    group = ["--resource-group", GROUP]
    ends(staged.run(staged.swap("sh", "-c", "kill -35 $$", options=group)), 1, "signal 35", "swapped back")
    assert staged.is_as_before()


def test_a_command_that_ends_well_and_has_swapped_nothing_leaves_the_swap_pending(staged: Shop) -> None:
    group = ["--resource-group", GROUP]
    ended = staged.run(staged.swap("true", options=group), patience=30)
    ends(ended, 6, "swapped nothing, or not yet")
    assert staged.pending() == staged.new
    assert staged.carried() == (staged.old, staged.new)
    ends(staged.type(typed(ended, "failed")), 0)
    assert staged.is_as_before()
    assert staged.deploying() == staged.new


@pytest.mark.parametrize("verb", ["stage", "swap", "rollback"])
def test_a_setting_that_stays_with_its_slot_is_found_out_before_anything_is_changed(swapped: Shop, verb: str) -> None:
    slots = {
        "production": {"settings": {"TASK_HUB": swapped.new}},
        "staging": {"settings": {"TASK_HUB": swapped.old}},
    }
    swapped.cloud.make({swapped.app: {"resourceGroup": GROUP, "sticky": ["TASK_HUB"], "slots": slots}})
    swapped.old, swapped.new = swapped.new, swapped.old
    group = ["--resource-group", GROUP]
    arguments = {"stage": ["stage", "--task-hub", new_hub(), *group], "swap": swapped.swap()}
    ends(swapped.run(arguments.get(verb, swapped.rollback())), 6, "is slot-sticky")
    assert swapped.is_as_before()
    assert swapped.swaps() == 0


def test_what_production_carries_must_be_known_before_it_is_swapped_out(staged: Shop) -> None:
    other = Shop(
        staged.server, staged.starter, staged.url, f"{staged.app}x", staged.folder, staged.cloud, staged.old, staged.new
    )
    other.old, other.new = new_hub(), new_hub()
    slots = {"production": {"settings": {"TASK_HUB": other.old}}, "staging": {"settings": {}}}
    other.cloud.make({other.app: {"resourceGroup": GROUP, "slots": slots}})
    ended = stages(other)
    ends(ended, 6, "of which the server knows nothing", f"register --server {other.url} --app {other.app}")
    assert staged.server.get(f"/api/apps/{other.app}").status_code == 404
    other.stage()
    ends(other.run(other.swap()), 6, "of which the server knows nothing")
    assert other.swaps() == 0


def test_nothing_is_begun_where_the_platform_cannot_be_looked_at(staged: Shop) -> None:
    staged.cloud.fault("appsettings list")
    ends(staged.run(staged.swap()), 1, "az failed")
    staged.cloud.clear_faults()
    assert staged.is_as_before()
    assert (staged.swaps(), staged.told()) == (0, [])


@pytest.mark.parametrize("platform_swapped", [False, True])
def test_who_cannot_look_after_a_failure_leaves_the_swap_pending_and_says_what_to_type(
    staged: Shop, platform_swapped: bool
) -> None:
    # From the failure on, az does not look any more.
    state = shlex.quote(str(staged.cloud.path))
    breaks = (
        "import json,sys;p=sys.argv[1];s=json.load(open(p));"
        "s['faults']['appsettings list']={'exit':1};f=open(p,'w');json.dump(s,f);f.close()"
    )
    swap = f"{shlex.join(staged.az_swap)};" if platform_swapped else ""
    command = f"{swap} {sys.executable} -W ignore -c {shlex.quote(breaks)} {state}; exit 4"
    ended = staged.run(staged.swap("sh", "-c", command, options=["--resource-group", GROUP]))
    ends(ended, 6, "What Azure carries cannot be seen", "pending")
    assert staged.pending() == staged.new
    staged.cloud.clear_faults()
    ends(staged.type(typed(ended, "done" if platform_swapped else "failed")), 0)
    assert staged.is_swapped() if platform_swapped else staged.is_as_before()


def test_where_nobody_can_look_a_command_that_fails_leaves_the_swap_pending(staged: Shop) -> None:
    ended = staged.run(staged.swap("sh", "-c", "exit 9"), az=False)
    ends(ended, 6, "exit code 9", "What Azure carries cannot be seen", "pending")
    assert staged.pending() == staged.new
    ends(staged.type(typed(ended, "failed")), 0)
    assert staged.is_as_before()
    ends(staged.run(staged.swap("sh", "-c", " ".join(staged.az_swap))), 0)
    assert staged.is_swapped()


@pytest.mark.parametrize("verb", ["swap", "rollback"])
@pytest.mark.parametrize("both", [False, True])
def test_without_a_command_it_must_be_said_how_the_swap_went_and_with_one_it_must_not(
    swapped: Shop, verb: str, both: bool
) -> None:
    arguments = [verb, "--task-hub", swapped.old, *(["--outcome", "done", "--", "true"] if both else [])]
    ends(swapped.run(arguments), 2, "--outcome")
    assert swapped.is_swapped()


def test_a_run_without_an_address_does_not_run_a_pending_swap_again(staged: Shop) -> None:
    staged.tell(staged.new, "Pending", None)
    group = ["--resource-group", GROUP]
    command, mark = touch(staged)
    ends(staged.run(staged.swap(*command, options=group), run_url=None), 6, "has not said how it went")
    assert not mark.exists()
    staged.carry(production=staged.new, staging=staged.old)
    ends(staged.run(staged.swap(*command, options=group), run_url=None), 0)
    assert staged.is_swapped()


def test_a_swap_that_was_cut_off_and_comes_late_is_not_run_again(staged: Shop) -> None:
    staged.tell(staged.new, "Pending")
    running = staged.start(staged.swap(options=["--settle", "30"]))
    until(lambda: "watching Azure" in running.err.read_text(), "it watches")
    assert staged.swaps() == 0
    staged.carry(production=staged.new, staging=staged.old)
    ends(running.end(), 0, "the command was not run")
    assert staged.is_swapped()
    assert staged.swaps() == 0


def test_where_nobody_can_look_a_swap_that_was_cut_off_waits_for_a_person(staged: Shop) -> None:
    staged.tell(staged.new, "Pending")
    command, mark = touch(staged)
    ended = staged.run(staged.swap(*command))
    ends(ended, 6, "has not said how it went", staged.new, staged.old)
    assert not mark.exists()
    ends(staged.type(typed(ended, "done").replace("done", "failed")), 0)
    assert staged.is_as_before()


@pytest.mark.parametrize("looks", [False, True])
def test_a_command_that_does_not_exist_leaves_the_record_as_it_was(staged: Shop, looks: bool) -> None:
    group = ["--resource-group", GROUP] if looks else []
    ends(staged.run(staged.swap("no-such-command", options=group)), 2, "cannot run no-such-command", "as it was")
    assert staged.is_as_before()
    assert staged.deploying() == staged.new


def test_a_command_that_does_not_exist_says_nothing_about_a_swap_that_was_cut_off(staged: Shop) -> None:
    staged.tell(staged.new, "Pending")
    ends(staged.run(staged.swap("no-such-command", options=["--resource-group", GROUP])), 2, "stays pending")
    assert staged.pending() == staged.new
    ends(staged.run(staged.swap()), 0)
    assert staged.is_swapped()


@pytest.mark.parametrize(
    "options", [["--slot", "canary"], ["--resource-group", "other-rg"], ["--function-app", "other", "-g"]]
)
def test_a_command_that_swaps_something_else_than_the_options_say_is_refused(staged: Shop, options: list[str]) -> None:
    given = [*options[:2], "--resource-group", GROUP] if "-g" in options else options
    ends(staged.run(staged.swap(options=given)), 2, "the command swaps")
    assert staged.is_as_before()
    assert (staged.swaps(), staged.told()) == (0, [])


@pytest.mark.parametrize(
    ("carries", "said"),
    [
        ({"staging": "v99"}, "in Azure slot staging carries v99"),
        ({"staging": ""}, "in Azure slot staging carries no task hub"),
        ({"production": "v99"}, "in Azure production carries v99"),
    ],
)
def test_where_the_platform_is_not_as_the_server_has_it_nothing_is_begun(
    staged: Shop, carries: dict[str, str], said: str
) -> None:
    apps = {slot: {"settings": {"TASK_HUB": hub}} for slot, hub in zip(SLOTS, staged.carried(), strict=True)}
    apps |= {slot: {"settings": {"TASK_HUB": hub} if hub else {}} for slot, hub in carries.items()}
    staged.cloud.make({staged.app: {"resourceGroup": GROUP, "slots": apps}})
    ends(staged.run(staged.swap()), 6, said)
    assert (staged.swaps(), staged.told()) == (0, [])
    assert staged.recorded() == (staged.old, staged.new)


@pytest.mark.parametrize("looks", [False, True])
def test_what_is_in_production_already_is_not_swapped_again(swapped: Shop, looks: bool) -> None:
    command, mark = touch(swapped)
    group = ["--resource-group", GROUP] if looks else []
    ends(swapped.run(swapped.swap(*command, options=group)), 0, "in production already")
    assert not mark.exists()
    assert swapped.is_swapped()


def test_what_only_the_server_has_in_production_is_a_conflict(staged: Shop) -> None:
    staged.tell(staged.new, "Done")
    command, mark = touch(staged)
    ends(staged.run(staged.swap(*command, options=["--resource-group", GROUP])), 6, "swapped without telling it")
    assert not mark.exists()


def test_what_only_the_platform_has_in_production_is_put_on_record(staged: Shop) -> None:
    staged.carry(production=staged.new, staging=staged.old)
    command, mark = touch(staged)
    ends(staged.run(staged.swap(*command, options=["--resource-group", GROUP])), 0, "the command was not run")
    assert not mark.exists()
    assert staged.is_swapped()


def test_a_hub_that_is_not_in_the_slot_is_refused_by_the_server(shop: Shop) -> None:
    command, mark = touch(shop)
    ends(shop.run(shop.swap(*command)), 6, shop.new)
    assert not mark.exists()
    assert shop.told() == []


@pytest.mark.parametrize("looks", [False, True])
def test_the_pending_swap_of_another_run_is_left_alone(staged: Shop, looks: bool) -> None:
    staged.tell(staged.new, "Pending")
    command, mark = touch(staged)
    group = ["--resource-group", GROUP] if looks else []
    ends(staged.run(staged.swap(*command, options=group), run_url=OTHER_RUN), 6, staged.new)
    assert not mark.exists()
    assert staged.pending() == staged.new
    assert staged.told() == ["Pending"]


def test_of_two_runs_that_swap_at_once_only_one_reaches_the_platform(staged: Shop) -> None:
    staged.cloud.fault("swap", code=None, delay=0.5)
    runs = [staged.start(staged.swap(), run_url=url) for url in ("https://ci.example/a", "https://ci.example/b")]
    assert sorted(running.end().code for running in runs) == [0, 6]
    assert staged.swaps() == 1
    assert staged.is_swapped()


def test_what_was_ended_by_somebody_since_the_look_is_not_run_again(staged: Shop, way: Way) -> None:
    staged.tell(staged.new, "Pending")

    def confirm(number: int, request: Request) -> bool:
        if number == 2:
            # The run that was thought dead has swapped, and says so.
            subprocess.run([staged.path / "az", *staged.az_swap[1:]], check=True)
            staged.tell(staged.new, "Done")
        return False

    way.before = confirm
    ends(staged.run(staged.swap()), 0, "in production already")
    assert staged.swaps() == 1
    assert staged.is_swapped()


def test_an_app_that_somebody_changes_at_the_same_moment_is_looked_at_again(staged: Shop, way: Way) -> None:
    def change(number: int, request: Request) -> bool:
        if number == 2:
            staged.server.put(f"/api/apps/{staged.app}", json={"policy": {"settleSeconds": 7}})
        return False

    way.before = change
    ends(staged.run(staged.swap()), 0)
    assert way.requests.count(("GET", f"/api/apps/{staged.app}")) == 2
    assert staged.is_swapped()


def test_an_app_that_is_changed_again_and_again_is_given_up_before_anything_is_begun(staged: Shop, way: Way) -> None:
    def change(number: int, request: Request) -> bool:
        if request[0] == "POST":
            staged.server.put(f"/api/apps/{staged.app}", json={"policy": {"settleSeconds": number}})
        return False

    way.before = change
    ends(staged.run(staged.swap()), 6, "again and again")
    assert staged.is_as_before()
    assert staged.swaps() == 0


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("reached", [False, True])
def test_a_connection_that_is_cut_changes_nothing(staged: Shop, way: Way, number: int, reached: bool) -> None:
    def cut(at: int, request: Request) -> bool:
        return at == number

    if reached:
        way.after = cut
    else:
        way.before = cut
    ends(staged.run(staged.swap()), 0, "trying again")
    assert staged.is_swapped()
    assert staged.swaps() == 1


# --- a server that is away ---


@pytest.mark.long
def test_a_server_that_is_restarted_during_the_swap_is_told_all_the_same(
    storage: StorageSettings, start: Starter, tmp_path: Path, app: str
) -> None:
    port = free_port()
    with state_server(storage, tmp_path, roles(), port) as served, admin(served.url) as client:
        shop = open_shop(client, start, tmp_path, app)
        shop.stage()
        go = tmp_path / "go"
        command = f"while ! test -e {go}; do sleep 0.05; done; {shlex.join(shop.az_swap)}"
        running = shop.start(shop.swap("sh", "-c", command, options=["--resource-group", GROUP]))
        until(lambda: shop.pending() == shop.new, "the swap is pending")
        served.stop()
        go.touch()
        until(lambda: "trying again" in running.err.read_text(), "the server is missed")
    with state_server(storage, tmp_path, roles(), port) as served, admin(served.url) as client:
        shop.server = client
        ends(running.end(), 0)
        assert shop.is_swapped()


@pytest.mark.parametrize("works", [False, True])
def test_a_server_that_stays_away_leaves_the_swap_pending_and_it_is_said_what_to_type(
    staged: Shop, way: Way, works: bool
) -> None:
    def away(number: int, request: Request) -> bool:
        return number >= 3

    way.before = away
    if not works:
        staged.cloud.fault("swap", times=1)
    ended = staged.run(staged.swap(), patience=0.5)
    carried = staged.new if works else staged.old
    ends(ended, 1, f"production carries {carried}", f"{staged.new} was put into production, pending")
    assert staged.pending() == staged.new
    way.clear()
    ends(staged.type(typed(ended, "done" if works else "failed")), 0)
    assert staged.is_swapped() if works else staged.is_as_before()


def test_a_server_that_goes_away_before_the_record_was_made_leaves_the_platform_alone(staged: Shop, way: Way) -> None:
    def away(number: int, request: Request) -> bool:
        return number >= 2

    way.before = away
    ends(staged.run(staged.swap(), patience=0.5), 1, "The command was not run. Type the same again")
    assert staged.swaps() == 0
    assert staged.is_as_before()


# --- signals ---


@SIGNALS
def test_who_stops_it_before_the_command_begins_finds_everything_as_it_was(
    staged: Shop, number: signal.Signals
) -> None:
    staged.cloud.fault("appsettings list", code=None, delay=0.4, times=1)
    running = staged.start(staged.swap())
    until(lambda: staged.cloud.called(LOOK) == 1, "it looks")
    running.send(number)
    ends(running.end(), 1, "stopped before the command was run")
    assert staged.is_as_before()
    assert (staged.swaps(), staged.deploying()) == (0, staged.new)


def test_who_stops_it_before_a_swap_that_was_cut_off_is_run_again_leaves_it_pending(staged: Shop) -> None:
    staged.tell(staged.new, "Pending")
    staged.cloud.fault("appsettings list", code=None, delay=0.4, times=1)
    running = staged.start(staged.swap())
    until(lambda: staged.cloud.called(LOOK) == 1, "it looks")
    running.send(signal.SIGTERM)
    ends(running.end(), 6, "has not said how it went")
    assert staged.pending() == staged.new
    assert staged.swaps() == 0


@SIGNALS
def test_who_stops_the_platforms_swap_leaves_it_pending_because_azure_may_go_on(
    staged: Shop, number: signal.Signals
) -> None:
    staged.cloud.fault("swap", code=None, delay=60, times=1)
    running = staged.start(staged.swap())
    until(lambda: staged.swaps() == 1, "the platform swaps")
    running.send(number)
    ended = running.end()
    ends(ended, 6, "Azure goes on with a swap that it has accepted")
    assert staged.pending() == staged.new
    ends(staged.run(staged.swap()), 0)
    assert staged.is_swapped()


def test_who_stops_the_command_after_the_platform_has_swapped_has_it_confirmed(staged: Shop) -> None:
    staged.cloud.fault("swap", code=None, delay_after=60, times=1)
    running = staged.start(staged.swap())
    until(lambda: staged.carried() == (staged.new, staged.old), "the platform has swapped")
    running.send(signal.SIGTERM)
    ends(running.end(), 1, "the swap is done, and on record")
    assert staged.is_swapped()


@SIGNALS
def test_what_the_command_has_started_is_not_left_running(staged: Shop, number: signal.Signals) -> None:
    group = staged.folder / "group"
    running = staged.start(staged.swap("sh", "-c", f"sleep 30 & echo $$ > {group}; exec sleep 30"))
    until(lambda: written(group), "the command runs")
    running.send(number)
    ended = running.end()
    assert ended.code == 6, ended.stderr
    until(lambda: is_gone(int(group.read_text())), "nothing of the command is left")
    assert staged.pending() == staged.new
    ends(staged.type(typed(ended, "failed")), 0)
    assert staged.is_as_before()


def test_who_asks_twice_kills_a_command_that_does_not_listen(staged: Shop) -> None:
    group = staged.folder / "group"
    deaf = f"trap '' INT TERM; echo $$ > {group}; sleep 30; sleep 30"
    running = staged.start(staged.swap("sh", "-c", deaf, options=["--resource-group", GROUP]))
    until(lambda: written(group), "the command runs")
    running.send(signal.SIGINT)
    running.send(signal.SIGTERM)
    ends(running.end(), 6, "was ended by SIGKILL")
    until(lambda: is_gone(int(group.read_text())), "nothing of the command is left")
    assert staged.pending() == staged.new


@pytest.mark.parametrize(("signals", "ended"), [(["SIGINT"], "SIGTERM"), (["SIGINT", "SIGTERM"], "SIGKILL")])
def test_what_comes_before_there_is_a_command_reaches_it(signals: list[str], ended: str) -> None:
    """The command may run already when its process is not known yet."""
    early = f"""
        import os, signal
        from safe_deploy.commands import Command, Guard
        with Guard() as guard:
            for number in {signals}:
                os.kill(os.getpid(), getattr(signal, number))
            print(guard.run(Command(["sleep", "60"], os.environ)))
    """
    python = [sys.executable, "-c", textwrap.dedent(early)]
    said = subprocess.check_output(python, stdin=subprocess.DEVNULL, text=True, timeout=60)
    assert said == f"was ended by {ended}\n"


@SIGNALS
def test_who_stops_it_while_it_tells_the_server_does_not_stop_it(
    staged: Shop, way: Way, number: signal.Signals
) -> None:
    known = threading.Event()
    running: list[Running] = []

    def stop(at: int, request: Request) -> bool:
        if at == 3:
            assert known.wait(60)
            running[0].send(number)
        return False

    way.before = stop
    running.append(staged.start(staged.swap()))
    known.set()
    ends(running[0].end(), 0)
    assert staged.is_swapped()


# --- secrets ---


def test_no_command_gets_the_key_and_every_command_gets_hub_and_version(staged: Shop) -> None:
    seen = staged.folder / "seen"
    ends(staged.run(staged.swap("sh", "-c", f"env > {seen}", options=["--version", "4.2"])), 0)
    env = seen.read_text()
    assert not any(key in env for key in KEYS.values())
    assert "SAFE_DEPLOY_KEY" not in env
    assert f"SAFE_DEPLOY_TASK_HUB={staged.new}\n" in env
    assert "SAFE_DEPLOY_VERSION=4.2\n" in env


def test_az_gets_no_key_either(staged: Shop) -> None:
    ends(staged.run(staged.swap()), 0)
    assert staged.cloud.environments
    assert not any("SAFE_DEPLOY_KEY" in names for names in staged.cloud.environments)
