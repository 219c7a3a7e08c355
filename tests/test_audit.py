"""`make audit` succeeds only if everything is pinned, every package was looked up and none has a known vulnerability.

The tests run it in a copy of the repository, with fakes of Python, uv, pip-audit and npm."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dev.check_pins import LOCK_FILES

ROOT = Path(__file__).parent.parent

FAKE_PYTHON = f"""#!/usr/bin/env bash
case "$1 $2" in
    "-m venv")
        mkdir -p .venv-audit/bin && cp "$0" .venv-audit/bin/python
        cp "$(dirname "$0")"/{{pip-audit,uv}} .venv-audit/bin/
        ;;
    "-m dev.check_pins") exec {sys.executable} "$@" ;;
    "-m pip") echo "$@" >>installed ;;
esac
"""
PIP_AUDIT_CLEAN = "echo 'No known vulnerabilities found' >&2"
NPM_CLEAN = "echo 'found 0 vulnerabilities'"
PIP_AUDIT_FOUND = "echo 'Found 2 known vulnerabilities in 1 package' >&2; echo 'odd 1.0 PYSEC-1'; exit 1"
PIP_AUDIT_SKIPPED = (
    "echo 'ERROR:pip_audit._cli:odd: Dependency not found and could not be audited: odd (1.0)' >&2; exit 1"
)
PIP_AUDIT_UNREACHABLE = "printf 'Traceback\\n...\\nConnectionError: no route\\n' >&2; exit 1"
NPM_FOUND = "printf '# npm audit report\\n\\nodd  <2\\nSeverity: high\\n\\n1 high severity vulnerability\\n'; exit 1"
NPM_UNREACHABLE = "echo 'npm error audit endpoint returned an error' >&2; exit 1"


UV_CHANGES_LOCK = 'echo "odd==2.0" >>requirements.txt'

FILES = [
    *["dev/audit", "dev/lock", "dev/check_pins.py", "dev/__init__.py", "pyproject.toml"],
    *["harness/dependency_groups.py", "harness/__init__.py"],
    *[lock.path for lock in LOCK_FILES],
]


@pytest.mark.parametrize(
    ("pip", "npm", "code", "messages"),
    [
        (PIP_AUDIT_CLEAN, NPM_CLEAN, 0, ["No known vulnerabilities found", "found 0 vulnerabilities"]),
        (PIP_AUDIT_FOUND, NPM_CLEAN, 1, ["odd 1.0 PYSEC-1", "error: Python packages have known vulnerabilities"]),
        (
            PIP_AUDIT_SKIPPED,
            NPM_CLEAN,
            1,
            ["could not be audited: odd", "error: Python packages could not be looked up"],
        ),
        (PIP_AUDIT_UNREACHABLE, NPM_CLEAN, 1, ["no route", "error: Python packages could not be looked up"]),
        (
            PIP_AUDIT_CLEAN,
            NPM_FOUND,
            1,
            ["Severity: high", "error: npm packages, which only development and tests use, have"],
        ),
        (
            PIP_AUDIT_CLEAN,
            NPM_UNREACHABLE,
            1,
            ["endpoint returned an error", "error: npm packages could not be looked up"],
        ),
        (PIP_AUDIT_SKIPPED, NPM_UNREACHABLE, 1, ["error: Python packages could not", "error: npm packages could not"]),
    ],
)
def test_an_audit_reports_vulnerabilities_and_packages_that_could_not_be_looked_up(
    tmp_path: Path, pip: str, npm: str, code: int, messages: list[str]
) -> None:
    ended = run_audit(copy_files(tmp_path), pip, npm)
    assert ended.returncode == code, ended.stderr
    assert all(message in ended.stdout + ended.stderr for message in messages), ended.stdout + ended.stderr
    asked = (tmp_path / "asked").read_text()
    # Without --strict, pip-audit skips a package that the service does not know, and succeeds.
    assert "--strict" in asked
    for name in ("requirements.txt", "requirements-audit.txt", "durable_app/requirements.txt"):
        assert f"-r {name}" in asked


def test_the_tools_of_an_audit_are_installed_by_hashes(tmp_path: Path) -> None:
    assert run_audit(copy_files(tmp_path)).returncode == 0
    [line] = (tmp_path / "installed").read_text().splitlines()
    assert line.endswith("--only-binary :all: --require-hashes -r requirements-audit.txt")


def test_a_stale_lock_file_fails_the_audit_with_its_difference_and_is_not_changed(tmp_path: Path) -> None:
    before = (copy_files(tmp_path) / "requirements.txt").read_text()
    ended = run_audit(tmp_path, uv=UV_CHANGES_LOCK)
    assert ended.returncode == 1
    assert "+odd==2.0" in ended.stderr
    assert "error: not up to date: requirements.txt. Run make lock and review the changes" in ended.stderr
    assert (tmp_path / "requirements.txt").read_text() == before


def test_a_package_without_a_hash_fails_the_audit(tmp_path: Path) -> None:
    file = copy_files(tmp_path) / "requirements.txt"
    file.write_text(f"{file.read_text()}odd==1.0\n")
    ended = run_audit(tmp_path)
    assert ended.returncode == 1
    assert "error: requirements.txt: odd==1.0 has no hash" in ended.stderr


def test_an_action_that_is_pinned_by_a_tag_fails_the_audit(tmp_path: Path) -> None:
    workflow = copy_files(tmp_path) / ".github" / "workflows" / "audit.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text("jobs: {audit: {steps: [{uses: actions/checkout@v6}]}}\n")
    ended = run_audit(tmp_path)
    assert ended.returncode == 1
    assert "error: .github/workflows/audit.yml: actions/checkout@v6 is not pinned by its commit" in ended.stderr


def copy_files(destination: Path) -> Path:
    """Copy the files that dev/audit reads."""
    for name in FILES:
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, destination / name)
    return destination


def run_audit(
    folder: Path, pip: str = PIP_AUDIT_CLEAN, npm: str = NPM_CLEAN, uv: str = "true"
) -> subprocess.CompletedProcess[str]:
    """Run dev/audit in this folder, with programs instead of the real ones that end as the test wants."""
    tools = folder / "tools"
    for name, script in (("python", FAKE_PYTHON), ("pip-audit", f'echo "$@" >asked\n{pip}'), ("npm", npm), ("uv", uv)):
        write_program(tools / name, script)
    settings = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": str(tools / "python")}
    return subprocess.run([folder / "dev/audit"], env=settings, capture_output=True, text=True, check=False)


def write_program(file: Path, script: str) -> None:
    """Write an executable shell script, or a script with its own first line."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(script if script.startswith("#!") else f"#!/usr/bin/env bash\n{script}\n")
    file.chmod(0o755)
