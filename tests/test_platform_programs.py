"""Without the real programs, one line names the tests that are left out and how to get the programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import platform_programs as programs

ROOT = Path(__file__).parent.parent


def run_programs(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command with these arguments. Returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["platform_programs", *arguments])
    return programs.main()


def test_missing_programs_are_one_line_and_an_error_only_where_they_are_required(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "platform_folder", lambda: None)
    assert run_programs(monkeypatch) == 0
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    for word in (
        "tests/platform",
        programs.FOLDER_VARIABLE,
        "bin/durable-host",
        ".NET SDK",
        "Core Tools",
        "docs/platform.md",
    ):
        assert word in stderr
    assert run_programs(monkeypatch, "--required") == 1


def test_available_programs_print_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(programs, "platform_folder", lambda: tmp_path)
    assert run_programs(monkeypatch, "--required") == 0
    assert capsys.readouterr().err == ""


def test_a_setting_that_names_a_folder_without_the_programs_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.platform_programs", "--required"]
    setting = {programs.FOLDER_VARIABLE: str(tmp_path)}
    done = subprocess.run(command, check=False, cwd=ROOT, env=os.environ | setting, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{tmp_path}, which has no bin/durable-host" in done.stderr
