"""Runs the README's walk-through with curl, unchanged, against its own server and storage emulator."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from harness.processes import free_ports
from harness.state_server import ROOT, run_server
from state_api.emulator import EmulatorPorts, storage_emulator
from state_api.settings import StorageSettings

PAGE = (ROOT / "README.md").read_text()


def readme_steps() -> Iterator[tuple[str, str]]:
    """The number and the commands of each step. Step 0 is the shell function that simulates Azure."""
    walkthrough = PAGE.split("### The whole sequence with curl", 1)[1].split("\n## ", 1)[0]
    number = "0"
    for step_number, commands in re.findall(r"^\*\*(\d+)\. |^```sh\n(.*?)^```$", walkthrough, re.MULTILINE | re.DOTALL):
        if step_number:
            number = step_number
        else:
            yield number, commands


def parse_documents(output: str) -> list[Any]:
    """The JSON documents in the output of several curl commands."""
    documents, decoder, rest = [], json.JSONDecoder(), output.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        documents.append(document)
        rest = rest[end:].strip()
    return documents


@pytest.fixture(scope="module")
def printed_documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The JSON documents that each step prints, by the number of the step."""
    ports = EmulatorPorts(*free_ports(3))
    storage = StorageSettings.model_validate({"connection_string": ports.connection_string()})
    with storage_emulator(ports, None), run_server(storage, tmp_path_factory.mktemp("readme")) as server:
        commands_by_step, documents_by_step = dict(readme_steps()), {}
        shell_function = commands_by_step.pop("0").replace(
            "(DEVELOPMENT_STORAGE,", f"({json.dumps(ports.connection_string())},"
        )
        for number, commands in commands_by_step.items():
            # Each step runs in a new shell, which first defines the function of step 0.
            script = f"{shell_function}\n{commands.replace('http://127.0.0.1:7071', server.url)}"
            process = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert (process.returncode, process.stderr) == (0, ""), f"step {number}: {process.stderr}"
            documents_by_step[number] = parse_documents(process.stdout)
        return documents_by_step


def test_the_deployment_is_refused_until_the_order_has_ended(
    printed_documents: dict[str, list[Any]],
) -> None:
    assert printed_documents["2"][0]["ready"]
    assert printed_documents["3"][0]["slots"]["staging"]["taskHub"] == "v42"
    assert printed_documents["5"][0]["slots"]["staging"]["taskHub"] == "v41"
    verdict, refused = printed_documents["7"]
    assert ([reason["code"] for reason in verdict["reasons"]], verdict["assurance"]) == (
        ["InstancesActive"],
        "verified",
    )
    assert (refused["status"], refused["code"]) == (409, "StagingNotReady")
    assert printed_documents["8"][0]["ready"]
    assert printed_documents["9"][0]["slots"]["staging"]["taskHub"] == "v43"
    assert [hub["taskHub"] for hub in printed_documents["10"][0]["taskHubs"]] == ["v41"]


def test_an_event_is_recorded_and_a_completion_without_an_event_is_found(
    printed_documents: dict[str, list[Any]],
) -> None:
    delivered, listed = printed_documents["11"]
    assert delivered["quarantined"] == 0
    assert [(instance["instanceId"], instance["active"]) for instance in listed["instances"]] == [("order-1002", True)]
    assert printed_documents["12"][0]["slots"]["staging"]["taskHub"] == "v42"
    (verdict,) = printed_documents["13"]
    assert (verdict["ready"], verdict["activeCount"], verdict["assurance"]) == (True, 0, "verified")
