"""The pipeline templates of this project, of which `safe-deploy init` fills in copies.

The text exists once, in the folder `pipelines` of the repository. The wheel has a copy of it as package data; see
`[tool.setuptools.package-dir]` in pyproject.toml.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE_FOLDER = Path(__file__).parents[1] / "templates"
_CHECKOUT_FOLDER = Path(__file__).parents[2] / "pipelines"


def read_template(name: str) -> str:
    """The text of a template, such as `github/quickstart.yml`."""
    folder = _PACKAGE_FOLDER if _PACKAGE_FOLDER.is_dir() else _CHECKOUT_FOLDER
    return (folder / name).read_text(encoding="utf-8")


def read_release_tag() -> str | None:
    """The tag of the release that this command line belongs to, such as `v0.1.0`; None in a checkout that is not
    installed."""
    try:
        return f"v{version('safe-deploy')}"
    except PackageNotFoundError:
        return None
