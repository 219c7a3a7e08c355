"""Swap, rollback and deploy as pipelines run them: real processes, a real server, and a platform that does what it is
told, or does not. Whatever happens, record and platform agree in the end, or the swap is pending and says what to type.
"""

import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dev.local import free_port, until
from state_api.settings import StorageSettings
from tests.builders import event
from tests.conftest import new_hub
from tests.safe_deploy.processes import KEYS, Ended, roles, safe_deploy, state_server
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
    starter,
    way_to,
)
from tests.server.processes import Served

OTHER_RUN = "https://ci.example/runs/2"


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[httpx.Client]:
    with admin(served.url) as client:
        yield client


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    with starter(tmp_path_factory.mktemp("exits")) as one:
        yield one


@pytest.fixture
def shop(server: httpx.Client, start: Starter, tmp_path: Path, app: str) -> Shop:
    return open_shop(server, start, tmp_path, app)


@pytest.fixture
def staged(shop: Shop) -> Shop:
    """The new hub is staged, and the slot carries it."""
    shop.stage()
    return shop


@pytest.fixture
def swapped(staged: Shop) -> Shop:
    """The new hub is in production, and the old one in the slot."""
    staged.tell(staged.new, "Done")
    staged.carry(production=staged.new, staging=staged.old)
    assert staged.is_swapped()
    return staged


@pytest.fixture
def way(server: httpx.Client, shop: Shop) -> Iterator[Way]:
    """safe-deploy reaches the server by this way."""
    direct = shop.url
    with way_to(direct) as way:
        shop.url = way.url
        yield way
    shop.url = direct


def typed(ended: Ended, outcome: str) -> str:
    """The line to type that was printed for this outcome."""
    found = re.findall(rf"safe-deploy swap [^;]*?--outcome {outcome}", ended.stderr)
    assert found, ended.stderr
    return str(found[0])


def written(file: Path) -> bool:
    return file.exists() and file.read_text().endswith("\n")


def touch(shop: Shop) -> tuple[list[str], Path]:
    """A command that leaves a mark where it was run."""
    mark = shop.folder / "mark"
    return ["touch", str(mark)], mark


def ends(ended: Ended, code: int, *said: str) -> None:
    assert ended.code == code, ended.stderr
    for part in said:
        assert part in ended.stderr


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


SLOTS = ("production", "staging")


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

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


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


# --- rollback ---


def test_a_rollback_brings_back_what_was_swapped_out_and_twice_is_as_once(swapped: Shop) -> None:
    ends(swapped.run(swapped.rollback()), 0)
    assert swapped.is_as_before()
    ends(swapped.run(swapped.rollback()), 0, "in production already")
    assert swapped.is_as_before()
    assert swapped.swaps() == 1


def test_a_rollback_to_a_hub_by_name_does_not_go_forward_when_it_is_repeated(swapped: Shop) -> None:
    arguments = swapped.rollback(options=["--task-hub", swapped.old])
    for _ in range(2):
        ends(swapped.run(arguments), 0)
        assert swapped.is_as_before()
    assert swapped.swaps() == 1


def test_a_rollback_of_a_first_deployment_has_nothing_to_go_back_to(shop: Shop) -> None:
    ends(shop.run(shop.rollback()), 6, "nothing to roll back to")
    assert shop.swaps() == 0


def test_a_hub_that_was_never_in_production_is_no_way_back(staged: Shop) -> None:
    command, mark = touch(staged)
    ends(staged.run(staged.rollback(*command)), 6, "was never in production")
    assert not mark.exists()
    assert staged.is_as_before()
    assert staged.told() == []


def test_a_rollback_does_not_promote_what_was_staged_after_it(swapped: Shop) -> None:
    ends(swapped.run(swapped.rollback()), 0)
    third = new_hub()
    swapped.stage(third, OTHER_RUN)
    ends(swapped.run(swapped.rollback()), 0, "in production already")
    assert swapped.recorded() == (swapped.old, third) == swapped.carried()


def test_a_rollback_that_fails_is_taken_back_and_can_be_repeated(swapped: Shop) -> None:
    swapped.cloud.fault("swap", times=1)
    ends(swapped.run(swapped.rollback()), 1, "swapped back")
    assert swapped.is_swapped()
    ends(swapped.run(swapped.rollback()), 0)
    assert swapped.is_as_before()


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("platform_swapped", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_a_rollback_after_a_swap_that_was_cut_off_ends_in_the_old_hub_unless_another_run_may_be_at_it(
    staged: Shop, platform_swapped: bool, by_name: bool, own: bool
) -> None:
    staged.tell(staged.new, "Pending")
    if platform_swapped:
        staged.carry(production=staged.new, staging=staged.old)
    options = ["--task-hub", staged.old] if by_name else []
    ended = staged.run(staged.rollback(options=options), run_url=RUN if own else OTHER_RUN)
    if platform_swapped:
        ends(ended, 0)
        assert staged.is_as_before()
        assert staged.swaps() == 1
    elif own:
        # Nothing was ever swapped: the record is right again.
        ends(ended, 0)
        assert staged.is_as_before()
        assert staged.swaps() == 0
    else:
        ends(ended, 6, "If that run is still at it, wait for it")
        assert staged.pending() == staged.new


def test_a_rollback_after_a_swap_that_was_cut_off_does_nothing_in_the_dark(staged: Shop) -> None:
    staged.tell(staged.new, "Pending")
    command, mark = touch(staged)
    ends(staged.run(staged.rollback(*command)), 6, "has not said how it went", "--outcome failed")
    assert not mark.exists()
    assert staged.pending() == staged.new


def test_a_rollback_of_another_slot_leaves_a_swap_that_was_cut_off_alone(staged: Shop) -> None:
    staged.tell(staged.new, "Pending")
    group = ["--resource-group", GROUP, "--slot", "canary"]
    hubs = {"production": staged.old, "staging": staged.new, "canary": new_hub()}
    slots = {slot: {"settings": {"TASK_HUB": hub}} for slot, hub in hubs.items()}
    staged.cloud.make({staged.app: {"resourceGroup": GROUP, "slots": slots}})
    ended = staged.run(staged.rollback("true", options=group))
    ends(ended, 6, "has not said how it went")
    assert "--slot staging" in typed(ended, "done")
    assert staged.pending() == staged.new


def test_a_rollback_without_a_command_changes_the_record_only(swapped: Shop) -> None:
    for _ in range(2):
        ends(swapped.run(["rollback", "--outcome", "done"]), 0)
        assert swapped.recorded() == (swapped.old, swapped.new)
    assert swapped.carried() == (swapped.new, swapped.old)
    assert swapped.swaps() == 0


# --- deploy ---


def test_a_deployment_goes_from_waiting_to_clean_up(shop: Shop) -> None:
    ends(shop.run(shop.deploy("--version", "4.2")), 0)
    assert shop.is_swapped()
    assert shop.record()["slots"]["production"]["version"] == "4.2"
    third = new_hub()
    ends(shop.run(shop.deploy(hub=third), run_url=OTHER_RUN), 0)
    assert shop.recorded() == (third, shop.new) == shop.carried()
    assert shop.swaps() == 2


def test_a_deployment_that_is_done_is_not_done_again(shop: Shop) -> None:
    for _ in range(2):
        ends(shop.run(shop.deploy()), 0)
    assert shop.is_swapped()
    assert shop.swaps() == 1


def test_a_slot_with_running_work_is_waited_for_and_never_deployed_to(swapped: Shop) -> None:
    running = event(swapped.old, status="Running")
    swapped.server.post("/api/events", json=[running]).raise_for_status()
    mark = swapped.folder / "mark"
    arguments = swapped.deploy("--timeout", "1", hub=new_hub(), by=f"touch {mark}")
    ends(swapped.run(arguments, run_url=OTHER_RUN), 5, "not ready within")
    assert not mark.exists()
    assert swapped.is_swapped()
    assert swapped.deploying() is None


def test_a_deploy_command_that_fails_abandons_the_deployment_and_swaps_nothing(shop: Shop) -> None:
    ends(shop.run(shop.deploy(by="false; echo never")), 1, "the deploy command ended with exit code 1", "is abandoned")
    assert shop.swaps() == 0
    assert shop.deploying() is None
    assert shop.recorded()[0] == shop.carried()[0] == shop.old
    third = new_hub()
    ends(shop.run(shop.deploy(hub=third)), 0)
    assert shop.recorded()[0] == third == shop.carried()[0]


def test_a_deployment_that_cannot_be_abandoned_says_so_and_why_the_command_failed(shop: Shop, way: Way) -> None:
    way.before = lambda number, request: request[0] == "DELETE"
    ends(shop.run(shop.deploy(by="exit 7"), patience=0.3), 1, "exit code 7", "stays open", "cannot be reached")
    assert shop.deploying() == shop.new


def test_a_swap_command_that_fails_can_be_tried_again_by_the_same_run(shop: Shop) -> None:
    shop.cloud.fault("swap", times=1)
    ends(shop.run(shop.deploy()), 1, "swapped back")
    assert shop.is_as_before()
    assert shop.deploying() == shop.new
    ends(shop.run(shop.deploy()), 0)
    assert shop.is_swapped()


@pytest.mark.parametrize("swapped_then", [False, True])
def test_a_deployment_that_was_cut_off_in_its_swap_goes_on_there(shop: Shop, swapped_then: bool) -> None:
    shop.stage()
    shop.tell(shop.new, "Pending")
    if swapped_then:
        shop.carry(production=shop.new, staging=shop.old)
    mark = shop.folder / "mark"
    ends(shop.run(shop.deploy(by=f"touch {mark}")), 0)
    assert shop.is_swapped()
    assert not mark.exists(), "what is in production is not deployed to"


def test_another_run_in_between_is_waited_for(shop: Shop) -> None:
    shop.stage(run_url=OTHER_RUN)
    third = new_hub()
    ends(shop.run(shop.deploy("--timeout", "1", hub=third)), 5, "not ready within")
    assert shop.recorded() == (shop.old, shop.new)
    running = shop.start(shop.deploy(hub=third))
    until(lambda: "NotReady" in running.err.read_text(), "it waits")
    ends(shop.run(shop.swap(), run_url=OTHER_RUN), 0)
    ends(running.end(), 0)
    assert shop.recorded() == (third, shop.new) == shop.carried()
    assert shop.swaps() == 2


@SIGNALS
def test_a_deploy_command_that_is_stopped_leaves_the_deployment_open_and_swaps_nothing(
    shop: Shop, number: signal.Signals
) -> None:
    group = shop.folder / "group"
    # Between two commands a shell heeds Ctrl-C only after the next of them.
    slow = f"echo $$ > {group}; exec sleep 30"
    running = shop.start(shop.deploy(by=slow))
    until(lambda: written(group), "the command runs")
    running.send(number)
    ends(running.end(), 1, "The deployment stays open")
    until(lambda: is_gone(int(group.read_text())), "nothing of the command is left")
    assert (shop.swaps(), shop.deploying()) == (0, shop.new)
    ends(shop.run(shop.deploy()), 0)
    assert shop.is_swapped()


@pytest.mark.parametrize("empty", ["--deploy-command", "--swap-command"])
def test_an_empty_command_makes_no_sense(shop: Shop, empty: str) -> None:
    ends(shop.run([*shop.deploy(), empty, ""]), 2, "must not be empty")
    assert shop.deploying() is None


def test_the_commands_of_a_deployment_get_no_key(shop: Shop) -> None:
    ends(shop.run(shop.deploy("--version", "4.2", by=f"env > one; {shop.az_deploy}", swap="env > two")), 0)
    for name in ("one", "two"):
        env = (shop.folder / name).read_text()
        assert "SAFE_DEPLOY_KEY" not in env
        assert not any(key in env for key in KEYS.values())
        assert (
            f"SAFE_DEPLOY_TASK_HUB={shop.new}\nSAFE_DEPLOY_VERSION=4.2\n" in "\n".join(sorted(env.splitlines())) + "\n"
        )


# --- what the slot carries before it is overwritten ---


def stages(shop: Shop, hub: str = "", *options: str) -> Ended:
    return shop.run(["stage", "--task-hub", hub or shop.new, "--resource-group", GROUP, *options])


@pytest.mark.parametrize("carried", ["", "new", "old"])
def test_an_empty_slot_is_staged_if_it_carries_nothing_or_what_it_was_made_with(shop: Shop, carried: str) -> None:
    shop.carry(staging={"": None, "new": shop.new, "old": shop.old}[carried])
    ends(stages(shop), 0)


def test_a_slot_is_staged_if_it_carries_what_the_server_has_there(swapped: Shop) -> None:
    ends(stages(swapped, new_hub()), 0)


def test_a_slot_that_carries_productions_hub_is_a_swap_that_nobody_saw(swapped: Shop) -> None:
    swapped.carry(production=swapped.old, staging=swapped.new)
    ends(stages(swapped, new_hub()), 6, "somebody swapped or deployed without telling it")
    assert swapped.recorded() == (swapped.new, swapped.old)


def test_what_somebody_swapped_by_hand_is_not_overwritten_although_the_slot_is_empty_on_record(shop: Shop) -> None:
    shop.carry(production="v99", staging=shop.old)
    mark = shop.folder / "mark"
    ends(shop.run(shop.deploy(by=f"touch {mark}")), 6, "somebody swapped or deployed without telling it")
    assert not mark.exists()
    assert shop.deploying() is None


def test_a_run_that_is_started_anew_under_another_name_does_not_release_twice(shop: Shop) -> None:
    ends(shop.run(shop.deploy()), 0)
    ends(shop.run(shop.deploy(hub=new_hub())), 0, "nothing is left to do")
    assert shop.is_swapped()
    assert shop.swaps() == 1
    ends(shop.run(shop.rollback()), 0)
    third = new_hub()
    ends(shop.run(shop.deploy(hub=third)), 0)
    assert shop.recorded() == (third, shop.old) == shop.carried()


def test_a_run_that_was_cut_off_and_is_started_anew_under_another_name_ends_its_swap_first(shop: Shop) -> None:
    shop.stage()
    shop.tell(shop.new, "Pending")
    shop.carry(production=shop.new, staging=shop.old)
    ends(shop.run(shop.deploy(hub=new_hub())), 0, "nothing is left to do")
    assert shop.is_swapped()
    assert shop.swaps() == 0


def test_what_became_active_beneath_a_staged_version_is_not_overwritten_by_the_run_that_staged_it(
    swapped: Shop,
) -> None:
    third = new_hub()
    ends(swapped.run(["stage", "--task-hub", third], run_url=OTHER_RUN), 0)
    swapped.server.post("/api/events", json=[event(swapped.old, status="Running")]).raise_for_status()
    mark = swapped.folder / "mark"
    arguments = swapped.deploy("--timeout", "1", hub=third, by=f"touch {mark}")
    ends(swapped.run(arguments, run_url=OTHER_RUN), 5, "not ready within")
    assert not mark.exists()
    assert swapped.is_swapped() is False


def test_a_slot_that_carries_a_hub_nobody_knows_is_overwritten_by_force_alone(swapped: Shop) -> None:
    swapped.carry(staging="v99")
    third = new_hub()
    ends(stages(swapped, third), 6, "carries v99", "--force")
    assert swapped.recorded() == (swapped.new, swapped.old)
    assert swapped.deploying() is None
    ends(stages(swapped, third, "--force", "--reason", "nothing runs there"), 0, "by force")
    assert swapped.recorded() == (swapped.new, third)


@pytest.mark.parametrize("active", [False, True])
def test_a_slot_that_still_carries_what_was_there_before_a_failed_deployment_is_judged_by_it(
    swapped: Shop, active: bool
) -> None:
    left = swapped.old
    third = new_hub()
    swapped.stage(third)
    ends(swapped.run(["abandon", "--task-hub", third]), 0, "")
    assert swapped.deploying() is None
    swapped.carry(staging=left)
    if active:
        swapped.server.post("/api/events", json=[event(left, status="Running")]).raise_for_status()
    ended = stages(swapped, new_hub())
    if active:
        ends(ended, 3, f"active on task hub {left}")
    else:
        ends(ended, 0)


def test_a_hub_that_azure_has_in_a_slot_is_not_deleted_whatever_is_on_record(swapped: Shop) -> None:
    third = new_hub()
    policy = {"policy": {"retention": {"keepLast": 5}}}
    swapped.server.put(f"/api/apps/{swapped.app}", json=policy).raise_for_status()
    ends(swapped.run(swapped.deploy(hub=third), run_url=OTHER_RUN), 0)
    assert [one["taskHub"] for one in swapped.record()["retired"]] == [swapped.old]
    swapped.carry(staging=swapped.old)
    group = ["--resource-group", GROUP, "--delete-task-hubs"]
    ends(swapped.run(["cleanup", *group]), 6, "in Azure staging carries it: nothing was deleted")


def test_nothing_is_staged_where_the_platform_cannot_be_looked_at(shop: Shop) -> None:
    shop.cloud.fault("appsettings list")
    ends(stages(shop), 1, "az failed")
    assert shop.deploying() is None
