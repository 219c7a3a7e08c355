"""The exit code of every refusal, against a real server with keys."""

from collections.abc import Callable

import pytest

from safe_deploy.client import PipelineCaller, StateServerClient
from safe_deploy.errors import ConflictError, ExitCode
from tests.builders import event
from tests.conftest import new_hub_name
from tests.safe_deploy.app_client import RUN, AppClient
from tests.safe_deploy.processes import KEYS


def stage_and_start_instance(app_client: AppClient) -> None:
    """Stage a task hub, and start an instance on it."""
    app_client.register()
    app_client.publish(event(app_client.stage(new_hub_name(), run_number=1)))


def open_deployment(app_client: AppClient) -> None:
    """Open a deployment of run 1."""
    app_client.register()
    app_client.stage(new_hub_name(), run_number=1)


def begin_swap(app_client: AppClient) -> None:
    """Record a pending swap of run 1."""
    app_client.register()
    hub = app_client.stage(new_hub_name(), run_number=1)
    app_client.swap(hub, run_number=1, outcome="Pending")


def use_task_hub_in_other_app(app_client: AppClient) -> None:
    """Another app has this app's task hub in production."""
    other = AppClient(app_client.url, hub=app_client.hub)
    other.register()


def register_nothing(app_client: AppClient) -> None:
    """The server does not know the app."""


SetUp = Callable[[AppClient], None]


@pytest.mark.parametrize(
    ("set_up", "arguments", "role", "code", "message"),
    [
        (
            stage_and_start_instance,
            ["stage", "--task-hub", "HUB", "--run-url", f"{RUN}1"],
            "deployer",
            ExitCode.NOT_READY,
            "1 orchestration instance",
        ),
        (stage_and_start_instance, ["status"], "reader", ExitCode.NOT_READY, "slot staging is not ready: "),
        (
            stage_and_start_instance,
            ["status", "--wait", "--timeout", "0"],
            "reader",
            ExitCode.TIMED_OUT,
            "was not ready within 0 s: ",
        ),
        (
            open_deployment,
            ["stage", "--task-hub", "HUB", "--run-url", f"{RUN}2"],
            "deployer",
            ExitCode.CONFLICT,
            f"{RUN}1",
        ),
        (AppClient.register, ["stage", "--task-hub", "OWN"], "deployer", ExitCode.CONFLICT, "slot production"),
        (use_task_hub_in_other_app, ["stage", "--create", "--task-hub", "OWN"], "deployer", ExitCode.CONFLICT, ""),
        (AppClient.register, ["swap", "--task-hub", "HUB", "--outcome", "done"], "deployer", ExitCode.CONFLICT, "HUB"),
        (AppClient.register, ["swap", "--task-hub", "HUB"], "deployer", ExitCode.USAGE, "--outcome"),
        (AppClient.register, ["rollback"], "deployer", ExitCode.USAGE, "--outcome"),
        (
            open_deployment,
            ["abandon", "--task-hub", "HUB"],
            "deployer",
            ExitCode.CONFLICT,
            "does not hold the open deployment",
        ),
        (begin_swap, ["stage", "--task-hub", "HUB", "--run-url", f"{RUN}1"], "deployer", ExitCode.CONFLICT, f"{RUN}1"),
        (
            AppClient.register,
            ["rollback", "--outcome", "done"],
            "deployer",
            ExitCode.CONFLICT,
            "nothing to roll back to",
        ),
        (AppClient.register, ["stage", "--task-hub", "no"], "deployer", ExitCode.USAGE, "3 to 45 letters and digits"),
        (AppClient.register, ["status", "--slot", "-"], "reader", ExitCode.USAGE, "slot"),
        (AppClient.register, ["status", "--run-url", "https://a b"], "reader", ExitCode.USAGE, "X-Run-Url"),
        (
            AppClient.register,
            ["status", "--run-url", "https://a\nb"],
            "reader",
            ExitCode.USAGE,
            "--run-url has characters",
        ),
        (AppClient.register, ["status", "--app", ""], "reader", ExitCode.USAGE, "--app (or SAFE_DEPLOY_APP) is empty"),
        (AppClient.register, ["status", "--app", "../.."], "reader", ExitCode.FAILURE, ""),
        (AppClient.register, ["status", "--slot", "canary"], "reader", ExitCode.FAILURE, "has no slot canary"),
        (AppClient.register, ["status", "--timeout", "-1"], "reader", ExitCode.USAGE, "--timeout"),
        (AppClient.register, ["status", "--wait", "--timeout", "nan"], "reader", ExitCode.USAGE, "--timeout"),
        (AppClient.register, ["status", "--wait", "--timeout", "inf"], "reader", ExitCode.USAGE, "--timeout"),
        (
            AppClient.register,
            ["swap", "--task-hub", "HUB", "--stabilization-window", "nan", "--", "true"],
            "deployer",
            ExitCode.USAGE,
            "--stabilization-window",
        ),
        (AppClient.register, ["status", "--interval", "0"], "reader", ExitCode.USAGE, "--interval"),
        (AppClient.register, ["status", "--interval", "121"], "reader", ExitCode.USAGE, "--interval"),
        (AppClient.register, ["history", "--top", "0"], "reader", ExitCode.USAGE, "--top"),
        (AppClient.register, ["history", "--top", "1001"], "reader", ExitCode.USAGE, "--top"),
        (AppClient.register, ["stage"], "deployer", ExitCode.USAGE, "--task-hub"),
        (AppClient.register, ["destroy"], "admin", ExitCode.USAGE, "destroy"),
        (
            AppClient.register,
            ["stage", "--task-hub", "HUB"],
            "reader",
            ExitCode.NOT_ALLOWED,
            "needs a key with the role deployer or admin",
        ),
        (
            AppClient.register,
            ["status"],
            "publisher",
            ExitCode.NOT_ALLOWED,
            "needs a key with the role reader or deployer or admin",
        ),
        (
            AppClient.register,
            ["register", "--task-hub", "OWN"],
            "deployer",
            ExitCode.NOT_ALLOWED,
            "needs a key with the role admin",
        ),
        (AppClient.register, ["instances", "--task-hub", "HUB"], "reader", ExitCode.FAILURE, "HUB"),
        (
            register_nothing,
            ["status"],
            "reader",
            ExitCode.FAILURE,
            "registers its task hub in production: safe-deploy register --create",
        ),
        (
            register_nothing,
            ["history"],
            "reader",
            ExitCode.FAILURE,
            "registers its task hub in production: safe-deploy register --create",
        ),
        (
            register_nothing,
            ["cleanup"],
            "deployer",
            ExitCode.FAILURE,
            "registers its task hub in production: safe-deploy register --create",
        ),
    ],
)
def test_every_refusal_has_its_exit_code(
    app_client: AppClient, set_up: SetUp, arguments: list[str], role: str, code: int, *, message: str
) -> None:
    set_up(app_client)
    hub = new_hub_name()
    named = [{"HUB": hub, "OWN": app_client.hub}.get(word, word) for word in arguments]
    result = app_client.run_cli(*named, role=role)
    assert result.code == code, result
    assert message.replace("HUB", hub) in result.stderr
    if "--wait" not in arguments and arguments != ["status"]:
        assert result.stdout == ""


def test_a_task_hub_that_was_used_before_is_a_conflict(app_client: AppClient) -> None:
    app_client.register()
    first = app_client.stage(new_hub_name(), run_number=1)
    app_client.stage(new_hub_name(), run_number=1)
    result = app_client.run_cli("stage", "--task-hub", first, "--run-url", f"{RUN}1")
    assert result.code == ExitCode.CONFLICT
    assert first in result.stderr


def test_an_outdated_etag_is_a_conflict(app_client: AppClient) -> None:
    app_client.register()
    with StateServerClient(
        app_client.url,
        app_client.app,
        key=KEYS["deployer"],
        caller=PipelineCaller(),
        report=print,
        retry_seconds=0,
    ) as server:
        hub = app_client.stage(new_hub_name())
        with pytest.raises(ConflictError) as refused:
            server.post_swap(hub, slot="staging", outcome=None, etag='"1"')
    assert refused.value.problem["code"] == "PreconditionFailed"
    assert refused.value.exit_code == ExitCode.CONFLICT


def test_an_unknown_key_is_not_allowed(app_client: AppClient) -> None:
    for key in ("", "unknown-key-0123456789", " "):
        result = app_client.run_cli("status", SAFE_DEPLOY_KEY=key)
        assert result.code == ExitCode.NOT_ALLOWED
        assert "the key is missing or unknown" in result.stderr
