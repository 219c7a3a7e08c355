"""Checks a release before it is published: version, wheel and changelog must agree. Prints the changelog entry.

Run it as `python -m dev.check_release FOLDER`, where FOLDER holds the wheel."""

import argparse
import re
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import state_api

ROOT = Path(__file__).parent.parent


class ReleaseError(Exception):
    """The release is not ready, with what is missing."""


def check_wheel(folder: Path, version: str) -> None:
    """Raises ReleaseError unless the folder holds one wheel, with the metadata of this version."""
    wheels = sorted(path.name for path in folder.glob("*.whl"))
    expected = f"safe_deploy-{version}-py3-none-any.whl"
    if wheels != [expected]:
        raise ReleaseError(f"{folder} must hold {expected} and no other wheel, and holds {', '.join(wheels) or 'none'}")
    with zipfile.ZipFile(folder / expected) as wheel:
        metadata = Parser().parsestr(wheel.read(f"safe_deploy-{version}.dist-info/METADATA").decode())
    fields = {"Name": "safe-deploy", "Version": version, "License-Expression": "MIT", "Requires-Python": ">=3.11"}
    for name, value in fields.items():
        if metadata[name] != value:
            raise ReleaseError(f"the metadata of {expected} must have {name}: {value}, and has {metadata[name]}")
    if not metadata.get_payload():
        raise ReleaseError(f"the metadata of {expected} has no description: README.md is missing from it")


def read_changelog_entry(changelog: str, version: str) -> str:
    """The entry of a version without its heading. Raises ReleaseError unless it has a date."""
    heading = re.search(rf"^## {re.escape(version)} [-\u2013] (.*)$", changelog, re.MULTILINE)
    if heading is None:
        raise ReleaseError(f"CHANGELOG.md has no heading '## {version} - DATE'")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", heading[1]):
        raise ReleaseError(f"CHANGELOG.md must have a date such as 2026-11-27 for {version}, and has {heading[1]!r}")
    return re.split(r"^## ", changelog[heading.end() :], flags=re.MULTILINE)[0].strip()


def main() -> int:
    """Check the wheel, and print the changelog entry of its version. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dev.check_release", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder with the wheel")
    folder = parser.parse_args().folder
    try:
        check_wheel(folder, state_api.__version__)
        entry = read_changelog_entry((ROOT / "CHANGELOG.md").read_text(), state_api.__version__)
    except ReleaseError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print(entry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
