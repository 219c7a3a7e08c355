"""What `python -m state_api serve` says when it listens: its address, the key, and a command that works when pasted."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.processes import wait_until
from harness.state_server import ServerProcess, run_server
from state_api.http.home import HOME_PAGE
from state_api.serving.first_steps import build_url, describe_first_steps
from state_api.settings import StorageSettings
from tests.keys import key_entry


def read_first_steps(server: ServerProcess) -> str:
    """What the server has output, once it has output all of it."""
    wait_until(lambda: "README.md goes on" in server.read_log(), "the server says what to do next")
    return server.read_log()


@pytest.mark.parametrize("keys", [[], [key_entry("a-key-of-the-test", "admin", "operators")]])
def test_the_command_works_when_pasted(storage: StorageSettings, tmp_path: Path, keys: list[dict[str, Any]]) -> None:
    with run_server(storage, tmp_path, keys) as server:
        command = re.findall(r"Try it in a second terminal:  (.+)", read_first_steps(server))
        assert command == [f"curl {server.url}/api/health/ready"]
        pasted = subprocess.run(["bash", "-ec", command[0]], capture_output=True, text=True, check=True)
        assert pasted.stdout == '{"status":"Ready"}'
        with server.client() as client:
            assert client.get("/").text == HOME_PAGE


def test_a_server_without_keys_says_that_none_is_needed(storage: StorageSettings, tmp_path: Path) -> None:
    with run_server(storage, tmp_path) as server:
        output = read_first_steps(server)
    assert f"listens on {server.url} until you press Ctrl-C" in output
    assert "No key is needed: it answers this machine only." in output


def test_a_server_with_keys_names_them_and_shows_no_key(storage: StorageSettings, tmp_path: Path) -> None:
    key = "a-key-of-the-test"
    entries = [key_entry(key, "admin", "operators"), *(key_entry(f"k{n}", "reader", f"reader-{n}") for n in range(6))]
    with run_server(storage, tmp_path, entries) as server:
        output = read_first_steps(server)
    listed = "operators (admin), reader-0 (reader), reader-1 (reader), reader-2 (reader), reader-3 (reader) and 2 more."
    assert (
        f"Operations need a key of STATE_KEYS, as SAFE_DEPLOY_KEY or in the header x-functions-key: {listed}" in output
    )
    assert all(secret not in output for entry in entries for secret in (key, entry["sha256"]))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:7071"),
        ("localhost", "http://localhost:7071"),
        ("0.0.0.0", "http://127.0.0.1:7071"),  # noqa: S104
        ("::", "http://127.0.0.1:7071"),
        ("::1", "http://[::1]:7071"),
    ],
)
def test_the_address_can_be_opened_on_this_machine(host: str, url: str) -> None:
    assert build_url(host, 7071) == url


def test_no_line_is_longer_than_a_terminal_without_keys() -> None:
    assert max(map(len, describe_first_steps("127.0.0.1", 7071, []).splitlines())) <= 80
