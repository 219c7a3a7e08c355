"""The dependency groups of pyproject.toml (PEP 735), with the groups that they include."""

import tomllib
from pathlib import Path

from packaging.dependency_groups import resolve_dependency_groups
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def read_dependency_group(name: str, root: Path = ROOT) -> list[Requirement]:
    """The requirements of a group. Raises LookupError if pyproject.toml has no such group."""
    groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
    return [Requirement(text) for text in resolve_dependency_groups(groups, name)]


def read_pinned_versions(name: str, root: Path = ROOT) -> dict[str, str]:
    """Package and specifier, such as `==1.0`, of each requirement of a group that applies to this Python."""
    requirements = read_dependency_group(name, root)
    return {
        requirement.name: str(requirement.specifier)
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }
