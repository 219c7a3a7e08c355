"""The README's sequence with curl, run as it stands on a server and an emulator of its own."""

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
    """Number and commands of each step; the function that stands in for the platform is 0."""
    walk = PAGE.split("### The whole sequence with curl", 1)[1].split("\n## ", 1)[0]
    number = "0"
    for bold, block in re.findall(r"^\*\*(\d+)\. |^```sh\n(.*?)^```$", walk, re.MULTILINE | re.DOTALL):
        if bold:
            number = bold
        else:
            yield number, block


def parse_documents(printed: str) -> list[Any]:
    """The JSON documents that curl has printed one after the other."""
    found, decoder, rest = [], json.JSONDecoder(), printed.strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].strip()
    return found


@pytest.fixture(scope="module")
def printed_documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each step prints."""
    ports = EmulatorPorts(*free_ports(3))
    storage = StorageSettings.model_validate({"connection_string": ports.connection_string()})
    with storage_emulator(ports, None), run_server(storage, tmp_path_factory.mktemp("readme")) as server:
        given, found = dict(readme_steps()), {}
        function = given.pop("0").replace("(DEVELOPMENT_STORAGE,", f"({json.dumps(ports.connection_string())},")
        for number, commands in given.items():
            # One shell for each step: the README's function, and then what stands there.
            script = f"{function}\n{commands.replace('http://127.0.0.1:7071', server.url)}"
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, ""), f"step {number}: {done.stderr}"
            found[number] = parse_documents(done.stdout)
        return found


def test_the_deployment_waits_for_the_order_and_goes_through_when_it_has_ended(
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


def test_an_event_is_recorded_and_an_end_without_an_event_is_found(printed_documents: dict[str, list[Any]]) -> None:
    delivered, listed = printed_documents["11"]
    assert delivered["quarantined"] == 0
    assert [(instance["instanceId"], instance["active"]) for instance in listed["instances"]] == [("order-1002", True)]
    assert printed_documents["12"][0]["slots"]["staging"]["taskHub"] == "v42"
    (verdict,) = printed_documents["13"]
    assert (verdict["ready"], verdict["activeCount"], verdict["assurance"]) == (True, 0, "verified")
