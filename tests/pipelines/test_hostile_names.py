"""Names and texts that would like to be commands of a CI system, shown by the scripts in `pipelines/`."""

import json

import pytest

from tests.builders import event
from tests.conftest import new_hub
from tests.pipelines.harness import Machine, Shop
from tests.pipelines.releases import BLUE_GREEN, BLUE_GREEN_ROLLBACK, Release, logs
from tests.pipelines.test_shell import Deploy
from tests.safe_deploy.between import Answer, between
from tests.safe_deploy.log_commands import azure_commands, github_commands, terminal_effects
from tests.safe_deploy.test_hostile import EVIL


@pytest.fixture
def deploy(machine: Machine, shop: Shop) -> Deploy:
    return Deploy(machine, shop)


def no_commands(log: str) -> None:
    """Nor anything else than text for people; all that a CI system could read as a command is shown in another way."""
    assert github_commands(log) == azure_commands(log) == []
    assert terminal_effects(log) == []


def test_the_shell_script_shows_no_name_as_a_command(deploy: Deploy, shop: Shop) -> None:
    """An instance with each name in the slot and in a retired task hub; the version of the one in the slot."""
    old, slot = new_hub(), new_hub()
    shop.put({"slots": {"production": {"taskHub": old}, "staging": {"taskHub": slot, "version": EVIL["azure"][:90]}}})
    events = [event(hub, name, function=name) for hub in (old, slot) for name in EVIL.values()]
    shop.admin.post("/api/events", json=events).raise_for_status()

    calls: list[tuple[str, dict[str, str]]] = [
        ("status", {}),
        ("status", {"wait": "true", "timeout": "1"}),
        ("stage", {"task_hub": new_hub()}),
        ("cleanup", {"dry_run": "true"}),
    ]
    shown = [(deploy(word, **more), deploy.said, deploy.code) for word, more in calls]
    assert [code for _, _, code in shown] == [3, 5, 3, 0]
    for result, said, _ in shown:
        no_commands(result)
        no_commands(said)
    verdict = json.loads(shown[0][0])
    assert {one["instanceId"] for one in verdict["active"]} == set(EVIL.values())
    # One line for each thing that is said, however many the name has.
    assert all(line.startswith("deploy.sh: ") for line in "".join(said for _, said, _ in shown).splitlines())


@pytest.mark.parametrize("status", [403, 409, 500, 503])
def test_the_shell_script_shows_no_text_of_a_server_as_a_command(deploy: Deploy, status: int) -> None:
    text = " ".join(EVIL.values()).replace("\0", "")
    with between() as proxy:
        proxy.always(Answer(status, json.dumps({"code": text, "detail": text}).encode()))
        deploy("status", server=proxy.url, patience="1")
        no_commands(deploy.said)
        assert "# #vso[task.complete" in deploy.said or status == 503
        proxy.always(Answer(200, text.encode()))
        deploy("status", server=proxy.url)
    no_commands(deploy.said)


def test_the_shell_script_shows_what_a_person_types_as_shell_words(deploy: Deploy, shop: Shop) -> None:
    """Who answers in the server's place does not choose what is run."""
    hub = "h1;touch${IFS}gone"
    pending = {"taskHub": hub, "slot": "$(touch gone)", "by": "a::error::b", "startedAt": "\x1b[2J", "rollback": False}
    app = {"app": "shop", "slots": {}, "pendingSwap": pending}
    with between() as proxy:
        proxy.always(Answer(200, json.dumps(app).encode()))
        deploy("swap", "--", "true", task_hub="h12", server=proxy.url)
    assert deploy.code == 6
    no_commands(deploy.said)
    assert r"SAFE_DEPLOY_SLOT=\$\(touch\ gone\) SAFE_DEPLOY_TASK_HUB=h1\;touch\$\{IFS\}gone " in deploy.said


@pytest.mark.parametrize("name", EVIL)
def test_a_blue_green_workflow_shows_no_release_name_as_a_command(release: Release, shop: Shop, name: str) -> None:
    """The app setting RELEASE can be written by whoever may set the app's settings."""
    evil = EVIL[name].replace("\0", "")
    for file, inputs in ((BLUE_GREEN, {}), (BLUE_GREEN_ROLLBACK, {"confirm": shop.name})):
        shop.make({"RELEASE": evil, "PREVIOUS_RELEASE": evil}, {"RELEASE": evil + "x", "PREVIOUS_RELEASE": evil})
        run = release.run(file, **inputs).start()
        for line in logs(run).splitlines():
            found = github_commands(line)
            assert all(one.name in ("error", "warning") and line.startswith("::") for one in found), line
        assert azure_commands(logs(run)) == []
        assert terminal_effects(logs(run)) == []
        for job in run.jobs.values():
            assert terminal_effects(job.summary) == []
            assert "[" not in job.summary
            assert "<" not in job.summary
