"""`safe-deploy register` against a real server: what it shows, when it asks, and that it writes what was shown."""

import re
from pathlib import Path

import pytest

from safe_deploy.client import PipelineCaller, StateServerClient
from safe_deploy.errors import ConflictError, ExitCode
from safe_deploy.registration import plan_changes, write_app
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import AppClient
from tests.safe_deploy.ci_systems import AZURE, github_environment
from tests.safe_deploy.injections import INJECTIONS, find_forged_github_commands
from tests.safe_deploy.processes import KEYS
from tests.safe_deploy.terminal import run_in_terminal

PROVIDER = ("--provider", "azureStorage", "--connection", "STATE_TASKHUBS_SHOP")


def answer(
    app_client: AppClient, *arguments: str, typed: str, columns: int = 80, **variables: str
) -> tuple[int, str, str]:
    """Run a command in a terminal in which `typed` is typed. Returns its exit code, stdout, and what the terminal
    showed."""
    environment = app_client.build_environment(**variables)
    with run_in_terminal([*arguments], environment, columns=columns, typed=typed) as running:
        assert running.process.stdout is not None
        stdout = running.process.stdout.read().decode()
        code = running.wait()
    return code, stdout, re.sub(r"\x1b\[[0-9;]*m", "", running.output.decode().replace("\r\n", "\n"))


def lines_of(text: str) -> list[str]:
    """The lines with single spaces between the words."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def slot_hub(app_client: AppClient, slot: str = "production") -> str | None:
    """The task hub that the server has in a slot."""
    slot_body = app_client.request_json("GET")["slots"].get(slot)
    return slot_body["taskHub"] if slot_body else None


def exists(app_client: AppClient) -> bool:
    """Whether the server knows the app."""
    names = {app["app"] for app in app_client.request_json("GET", "/api/apps?top=1000")["apps"]}
    return app_client.app in names


# --- an app that the server does not know ---


def test_an_unknown_app_is_refused_without_create_and_created_with_it(app_client: AppClient) -> None:
    arguments = ("register", "--task-hub", app_client.hub)
    refused = app_client.run_cli(*arguments)
    assert (refused.code, refused.stdout) == (ExitCode.FAILURE, "")
    assert f"the server has no app {app_client.app}" in refused.stderr
    assert "--create" in refused.stderr
    assert not exists(app_client)
    created = app_client.run_cli(*arguments, "--create")
    assert created.code == ExitCode.DONE
    assert lines_of(created.stdout)[0] == (
        f"slot production of app {app_client.app} holds task hub {app_client.hub}; the app is created"
    )
    assert slot_hub(app_client) == app_client.hub
    # A script can be run again.
    repeated = app_client.run_cli(*arguments, "--create")
    assert repeated.code == ExitCode.DONE
    assert lines_of(repeated.stdout)[0].endswith("; nothing has changed")


def test_a_mistyped_app_shows_the_close_names(app_client: AppClient) -> None:
    app_client.register()
    mistyped = AppClient(app_client.url, app_client.app[:-1])
    for arguments in (
        ["register", "--task-hub", new_hub_name()],
        ["stage", "--task-hub", new_hub_name()],
        ["status"],
        ["show"],
        ["policy", "set", "settleSeconds=5"],
        ["unregister", "--yes"],
    ):
        result = mistyped.run_cli(*arguments)
        assert result.code == ExitCode.FAILURE, arguments
        assert f"the server has no app {mistyped.app}. Close to it: {app_client.app}" in result.stderr, arguments
        assert "--create" in result.stderr
    assert not exists(mistyped)


def test_stage_creates_an_app_only_with_create(app_client: AppClient) -> None:
    hub = new_hub_name()
    refused = app_client.run_cli("stage", "--task-hub", hub, role="deployer")
    assert refused.code == ExitCode.FAILURE
    assert not exists(app_client)
    assert app_client.run_cli("stage", "--task-hub", hub, "--create", role="deployer").code == ExitCode.DONE
    assert slot_hub(app_client, "staging") == hub


def test_an_app_that_appears_after_the_question_is_not_overwritten(app_client: AppClient) -> None:
    """Between reading and writing another caller creates the app: the condition of the write holds, not a look."""
    body = {"slots": {"production": {"taskHub": new_hub_name(), "version": None}}}
    with open_client(app_client) as server:
        app_client.register()
        with pytest.raises(ConflictError) as refused:
            write_app(server, body, etag=None, is_done=lambda app: not plan_changes(app, body))
    assert "was created by test meanwhile" in refused.value.message
    assert slot_hub(app_client) == app_client.hub


def test_a_change_meanwhile_is_not_overwritten(app_client: AppClient) -> None:
    app_client.register()
    body = {"policy": {"settleSeconds": 7}}
    with open_client(app_client) as server:
        _, etag = server.get_app()
        app_client.register(policy={"settleSeconds": 5})
        with pytest.raises(ConflictError) as refused:
            write_app(server, body, etag=etag, is_done=lambda app: not plan_changes(app, body))
        assert "was changed by test meanwhile" in refused.value.message
        # A lost response: what was asked for is on record already.
        app_client.register(policy={"settleSeconds": 7})
        app = write_app(server, body, etag=etag, is_done=lambda app: not plan_changes(app, body))
    assert app["policy"]["settleSeconds"] == 7


def open_client(app_client: AppClient) -> StateServerClient:
    """A client with the key of an administrator."""
    return StateServerClient(
        app_client.url, app_client.app, key=KEYS["admin"], caller=PipelineCaller(), report=print, retry_seconds=0
    )


# --- what is replaced ---


def test_a_replacement_is_shown_and_needs_a_confirmation(app_client: AppClient) -> None:
    app_client.register(policy={"settleSeconds": 0})
    hub = new_hub_name()
    arguments = ("register", "--task-hub", hub, "--version", "2")
    code, stdout, dialog = answer(app_client, *arguments, typed="n\n", columns=200)
    assert (code, stdout) == (ExitCode.FAILURE, "")
    assert f"app {app_client.app}: this is replaced" in dialog
    assert "What On record New" in lines_of(dialog)
    assert f"slot production task hub {app_client.hub} (version 1) task hub {hub} (version 2)" in lines_of(dialog)
    assert f"Ready: slot production (task hub {app_client.hub})" in dialog
    assert "nothing was changed" in dialog
    assert slot_hub(app_client) == app_client.hub
    code, stdout, _ = answer(app_client, *arguments, typed="y\n")
    assert code == ExitCode.DONE
    assert lines_of(stdout)[0] == (
        f"slot production of app {app_client.app} holds task hub {hub}; changed: slot production"
    )
    assert slot_hub(app_client) == hub


def test_the_question_says_that_the_old_task_hub_is_still_active(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, "order-1"))
    code, _, dialog = answer(app_client, "register", "--task-hub", new_hub_name(), typed="y\n")
    assert code == ExitCode.NOT_READY
    assert "1 orchestration instance is active" in dialog
    assert "The server replaces it only once it has drained" in dialog
    assert slot_hub(app_client) == app_client.hub


@pytest.mark.parametrize("columns", [60, 80])
def test_what_is_replaced_fits_the_terminal(app_client: AppClient, columns: int) -> None:
    app_client.register()
    arguments = ("register", "--task-hub", new_hub_name(), "--version", "2.0.0-rc.1+build.20261127")
    _, _, dialog = answer(app_client, *arguments, typed="n\n", columns=columns)
    table = [line for line in dialog.splitlines() if line.startswith((" What", " slot", " ─", "  "))]
    assert table
    assert all(len(line) <= columns for line in table), table


def test_without_a_terminal_a_replacement_needs_yes(app_client: AppClient) -> None:
    app_client.register(policy={"settleSeconds": 0})
    hub = new_hub_name()
    refused = app_client.run_cli("register", "--task-hub", hub)
    assert (refused.code, refused.stdout) == (ExitCode.USAGE, "")
    assert f"task hub {app_client.hub} (version 1)" in refused.stderr
    assert "--yes" in refused.stderr
    assert slot_hub(app_client) == app_client.hub
    assert app_client.run_cli("register", "--task-hub", hub, "--yes").code == ExitCode.DONE
    assert slot_hub(app_client) == hub


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "nothing has changed"),
        (("--version", "1"), "nothing has changed"),
        (PROVIDER, "changed: provider"),
        (("--slot", "staging"), "other"),
    ],
)
def test_what_replaces_nothing_is_not_asked_about(
    app_client: AppClient, options: tuple[str, ...], expected: str
) -> None:
    app_client.register()
    hub = new_hub_name() if "--slot" in options else app_client.hub
    result = app_client.run_cli("register", "--task-hub", hub, *options)
    assert (result.code, result.stderr) == (ExitCode.DONE, "")
    assert expected.replace("other", "changed: slot staging") in result.stdout
    repeated = app_client.run_cli("register", "--task-hub", hub, *options)
    assert (repeated.code, repeated.stderr) == (ExitCode.DONE, "")
    assert lines_of(repeated.stdout)[0].endswith("; nothing has changed")
    assert len(app_client.history()) == (1 if expected == "nothing has changed" else 2)


@pytest.mark.parametrize(
    ("options", "row"),
    [
        (("--version", "2"), r"slot production task hub OWN \(version 1\) task hub OWN \(version 2\)"),
        (("--require-verification",), "policy requireVerification false true"),
        (
            (*PROVIDER, "--tracking-connection", "STATE_TASKHUBS_SHOP"),
            r"provider azureStorage by STATE_TASKHUBS_SHOP azureStorage by STATE_TASKHUBS_SHOP, tracking store by \S+",
        ),
    ],
)
def test_versions_policy_and_provider_are_replaced_after_a_question(
    app_client: AppClient, options: tuple[str, ...], row: str
) -> None:
    app_client.register(taskHubs={"provider": "azureStorage", "connection": "STATE_TASKHUBS_SHOP"})
    before = app_client.request_json("GET")
    refused = app_client.run_cli("register", "--task-hub", app_client.hub, *options)
    assert refused.code == ExitCode.USAGE
    pattern = row.replace("OWN", app_client.hub)
    assert any(re.fullmatch(pattern, line) for line in lines_of(refused.stderr)), refused.stderr
    assert app_client.request_json("GET") == before
    assert app_client.run_cli("register", "--task-hub", app_client.hub, *options, "--yes").code == ExitCode.DONE


def test_a_slot_is_emptied_after_a_question(app_client: AppClient) -> None:
    app_client.register(policy={"settleSeconds": 0})
    assert app_client.run_cli("register", "--empty").code == ExitCode.USAGE
    assert app_client.run_cli("register", "--empty", "--yes").code == ExitCode.DONE
    assert slot_hub(app_client) is None


def test_an_app_moves_from_slots_to_releases_side_by_side(app_client: AppClient) -> None:
    app_client.register(policy={"settleSeconds": 0})
    release = ("--version", "1.4.0", "--task-hub", app_client.hub, "--address", "https://shop-140.azurewebsites.net")
    arguments = ("register", "--model", "sideBySide", *release)
    refused = app_client.run_cli(*arguments)
    assert refused.code == ExitCode.USAGE
    assert "model slots sideBySide" in lines_of(refused.stderr)
    assert any(
        line.startswith("slot production task hub") and "release 1.4.0" in line for line in lines_of(refused.stderr)
    )
    moved = app_client.run_cli(*arguments, "--yes")
    assert moved.code == ExitCode.DONE
    assert lines_of(moved.stdout)[1] == "Version Task hub State Traffic Address"
    assert lines_of(app_client.run_cli(*arguments).stdout)[0] == f"app {app_client.app}; nothing has changed"
    assert app_client.run_cli("promote", "--version", "1.4.0").code == ExitCode.DONE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing is given to register"),
        (("--empty", "--task-hub", "HUB"), "Omit one of them"),
        (("--address", "https://a.example", "--task-hub", "HUB"), "Give its --version and --task-hub too"),
        (("--tracking-connection", "X"), "need --provider and --connection"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    app_client: AppClient, options: tuple[str, ...], message: str
) -> None:
    app_client.register()
    result = app_client.run_cli("register", *(app_client.hub if word == "HUB" else word for word in options))
    assert result.code == ExitCode.USAGE
    assert message in result.stderr


@pytest.mark.parametrize("ci", ["github", "azure"])
def test_hostile_versions_on_record_are_no_commands_in_the_question(
    app_client: AppClient, ci: str, tmp_path: Path
) -> None:
    hostile = INJECTIONS["github"] + INJECTIONS["azure"][:30]
    app_client.request_json("PUT", "", {"slots": {"production": {"taskHub": app_client.hub, "version": hostile}}})
    variables = github_environment(tmp_path) if ci == "github" else AZURE
    result = app_client.run_cli("register", "--task-hub", app_client.hub, "--version", "2", **variables)
    assert result.code == ExitCode.USAGE
    assert find_forged_github_commands(result.stderr) == []
    assert "##vso[task.setvariable" not in result.stderr
    assert "stop-commands" in result.stderr


# --- adopt and unregister ---


def test_adopt_declares_that_a_task_hub_belongs_to_the_app(app_client: AppClient) -> None:
    app_client.register()
    refused = app_client.run_cli("adopt", "--task-hub", app_client.hub)
    assert refused.code == ExitCode.USAGE
    assert app_client.run_cli("register", *PROVIDER).code == ExitCode.DONE
    adopted = app_client.run_cli("adopt", "--task-hub", app_client.hub)
    assert adopted.code == ExitCode.DONE
    assert adopted.stdout.startswith(f"task hub {app_client.hub} belongs to app {app_client.app}")
    assert app_client.request_json("GET", f"/api/taskhubs/{app_client.hub}")["proof"]["basis"] == "Adopted"
    assert app_client.run_cli("adopt", "--task-hub", app_client.hub).code == ExitCode.DONE


def test_unregister_shows_the_app_asks_and_deletes_what_was_shown(app_client: AppClient) -> None:
    app_client.register(policy={"settleSeconds": 0})
    refused = app_client.run_cli("unregister")
    assert refused.code == ExitCode.USAGE
    assert f"slot production task hub {app_client.hub} (version 1)" in lines_of(refused.stderr)
    assert exists(app_client)
    code, stdout, dialog = answer(app_client, "unregister", typed="y\n")
    assert (code, stdout) == (ExitCode.DONE, f"app {app_client.app} is deleted on the server\n"), dialog
    assert not exists(app_client)


def test_an_app_with_active_instances_is_not_deleted(app_client: AppClient) -> None:
    app_client.register()
    app_client.publish(event(app_client.hub, "order-1"))
    result = app_client.run_cli("unregister", "--yes")
    assert result.code == ExitCode.CONFLICT
    assert exists(app_client)


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_a_question_leaves_stdout_to_the_result(app_client: AppClient, output: str) -> None:
    app_client.register(policy={"settleSeconds": 0})
    arguments = ("register", "--task-hub", new_hub_name(), "--yes", "--output", output)
    result = app_client.run_cli(*arguments)
    assert result.code == ExitCode.DONE
    assert "this is replaced" in result.stderr
    assert "this is replaced" not in result.stdout
    assert app_client.app in result.stdout
