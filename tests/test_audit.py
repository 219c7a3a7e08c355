"""`make audit` ends well only if everything is pinned and was looked up, and nothing was found. Run in a copy, with
stand-ins for Python, uv, pip-audit and npm, because the services that they ask are elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dev.pins import lock_files

ROOT = Path(__file__).parent.parent

PYTHON = f"""#!/usr/bin/env bash
case "$1 $2" in
    "-m venv")
        mkdir -p .venv-audit/bin && cp "$0" .venv-audit/bin/python
        cp "$(dirname "$0")"/{{pip-audit,uv}} .venv-audit/bin/
        ;;
    "-m dev.pins") exec {sys.executable} -m dev.pins ;;
    "-m pip") echo "$@" >>installed ;;
esac
"""
CLEAN = "echo 'No known vulnerabilities found' >&2"
NPM_CLEAN = "echo 'found 0 vulnerabilities'"
FOUND = "echo 'Found 2 known vulnerabilities in 1 package' >&2; echo 'odd 1.0 PYSEC-1'; exit 1"
SKIPPED = "echo 'ERROR:pip_audit._cli:odd: Dependency not found and could not be audited: odd (1.0)' >&2; exit 1"
UNREACHABLE = "printf 'Traceback\\n...\\nConnectionError: no route\\n' >&2; exit 1"
NPM_FOUND = "printf '# npm audit report\\n\\nodd  <2\\nSeverity: high\\n\\n1 high severity vulnerability\\n'; exit 1"
NPM_UNREACHABLE = "echo 'npm error audit endpoint returned an error' >&2; exit 1"


CHANGED = 'echo "odd==2.0" >>requirements.txt'

FILES = [
    *["dev/audit", "dev/lock", "dev/pins.py", "dev/__init__.py"],
    *[str(path.relative_to(ROOT)) for lock in lock_files() for path in (lock, lock.with_suffix(".in"))],
]


@pytest.mark.parametrize(
    ("pip", "npm", "code", "said"),
    [
        (CLEAN, NPM_CLEAN, 0, ["No known vulnerabilities found", "found 0 vulnerabilities"]),
        (FOUND, NPM_CLEAN, 1, ["odd 1.0 PYSEC-1", "error: Python packages have known vulnerabilities"]),
        (SKIPPED, NPM_CLEAN, 1, ["could not be audited: odd", "error: Python packages could not be looked up"]),
        (UNREACHABLE, NPM_CLEAN, 1, ["no route", "error: Python packages could not be looked up"]),
        (CLEAN, NPM_FOUND, 1, ["Severity: high", "error: npm packages, which only development and tests use, have"]),
        (CLEAN, NPM_UNREACHABLE, 1, ["endpoint returned an error", "error: npm packages could not be looked up"]),
        (SKIPPED, NPM_UNREACHABLE, 1, ["error: Python packages could not", "error: npm packages could not"]),
    ],
)
def test_an_audit_says_what_was_found_and_what_could_not_be_looked_up(
    tmp_path: Path, pip: str, npm: str, code: int, said: list[str]
) -> None:
    ended = audited(copied(tmp_path), pip, npm)
    assert ended.returncode == code, ended.stderr
    assert all(one in ended.stdout + ended.stderr for one in said), ended.stdout + ended.stderr
    asked = (tmp_path / "asked").read_text()
    # Without --strict, a package that the service does not know is left out, and the end is good.
    assert "--strict" in asked
    for name in ("requirements.txt", "requirements-audit.txt", "durable_app/requirements.txt"):
        assert f"-r {name}" in asked


def test_what_an_audit_uses_is_itself_installed_by_hashes(tmp_path: Path) -> None:
    assert audited(copied(tmp_path)).returncode == 0
    [line] = (tmp_path / "installed").read_text().splitlines()
    assert line.endswith("--only-binary :all: --require-hashes -r requirements-audit.txt")


def test_a_lock_file_that_would_change_fails_the_audit_and_is_shown_and_left_alone(tmp_path: Path) -> None:
    before = (copied(tmp_path) / "requirements.txt").read_text()
    ended = audited(tmp_path, uv=CHANGED)
    assert ended.returncode == 1
    assert "+odd==2.0" in ended.stderr
    assert "error: not up to date: requirements.txt. Run make lock, and read what changes" in ended.stderr
    assert (tmp_path / "requirements.txt").read_text() == before


def test_a_package_without_a_hash_fails_the_audit(tmp_path: Path) -> None:
    file = copied(tmp_path) / "requirements.txt"
    file.write_text(f"{file.read_text()}odd==1.0\n")
    ended = audited(tmp_path)
    assert ended.returncode == 1
    assert "error: requirements.txt: odd==1.0 has no hash" in ended.stderr


def test_an_action_that_is_named_by_a_tag_fails_the_audit(tmp_path: Path) -> None:
    workflow = copied(tmp_path) / ".github" / "workflows" / "audit.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text("jobs: {audit: {steps: [{uses: actions/checkout@v6}]}}\n")
    ended = audited(tmp_path)
    assert ended.returncode == 1
    assert "error: .github/workflows/audit.yml: actions/checkout@v6 is not pinned by its commit" in ended.stderr


def copied(to: Path) -> Path:
    for name in FILES:
        (to / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, to / name)
    return to


def audited(folder: Path, pip: str = CLEAN, npm: str = NPM_CLEAN, uv: str = "true") -> subprocess.CompletedProcess[str]:
    tools = folder / "tools"
    for name, script in (("python", PYTHON), ("pip-audit", f'echo "$@" >asked\n{pip}'), ("npm", npm), ("uv", uv)):
        place(tools / name, script)
    settings = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": str(tools / "python")}
    return subprocess.run([folder / "dev/audit"], env=settings, capture_output=True, text=True, check=False)


def place(file: Path, script: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(script if script.startswith("#!") else f"#!/usr/bin/env bash\n{script}\n")
    file.chmod(0o755)
