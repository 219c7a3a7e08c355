"""`make audit` ends well only if everything was looked up and nothing was found. Run in a copy, with stand-ins for
Python and npm, because the services that it asks are elsewhere."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PYTHON = """#!/usr/bin/env bash
if [[ "$1 $2" == "-m venv" ]]; then
    mkdir -p .venv-audit/bin && cp "$0" .venv-audit/bin/python && cp "$(dirname "$0")/pip-audit" .venv-audit/bin/
fi
"""
CLEAN = "echo 'No known vulnerabilities found' >&2"
NPM_CLEAN = "echo 'found 0 vulnerabilities'"
FOUND = "echo 'Found 2 known vulnerabilities in 1 package' >&2; echo 'odd 1.0 PYSEC-1'; exit 1"
SKIPPED = "echo 'ERROR:pip_audit._cli:odd: Dependency not found and could not be audited: odd (1.0)' >&2; exit 1"
UNREACHABLE = "printf 'Traceback\\n...\\nConnectionError: no route\\n' >&2; exit 1"
NPM_FOUND = "printf '# npm audit report\\n\\nodd  <2\\nSeverity: high\\n\\n1 high severity vulnerability\\n'; exit 1"
NPM_UNREACHABLE = "echo 'npm error audit endpoint returned an error' >&2; exit 1"


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
    tools = tmp_path / "tools"
    for name, script in (("python", PYTHON), ("pip-audit", pip), ("npm", npm)):
        place(tools / name, script)
    for name in ("dev/audit", "requirements.txt", "requirements-audit.txt", "durable_app/requirements.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    place(tools / "pip-audit", f'echo "$@" >asked\n{pip}')
    settings = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": str(tools / "python")}
    ended = subprocess.run([tmp_path / "dev/audit"], env=settings, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    assert all(one in ended.stdout + ended.stderr for one in said), ended.stdout + ended.stderr
    asked = (tmp_path / "asked").read_text()
    # Without --strict, a package that the service does not know is left out, and the end is good.
    assert "--strict" in asked
    for name in ("requirements.txt", "requirements-audit.txt", "durable_app/requirements.txt"):
        assert f"-r {name}" in asked


def place(file: Path, script: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(script if script.startswith("#!") else f"#!/usr/bin/env bash\n{script}\n")
    file.chmod(0o755)
