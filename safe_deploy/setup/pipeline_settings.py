"""What a pipeline must know about the app, its server and its repository.

These are the answers to the questions of `safe-deploy init`. The head of a written file keeps them for the next run.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import pairwise

from safe_deploy.setup.remotes import CiSystemName

_HEAD = "# Written by: safe-deploy init"
_LINE = re.compile(rf"^\ufeff?{re.escape(_HEAD)}(?P<options>(?: .*)?)$", re.MULTILINE)


class DeploymentModel(StrEnum):
    """How versions are deployed: into a slot of one Function App, or each into a Function App of its own."""

    SLOTS = "slots"
    SIDE_BY_SIDE = "side-by-side"


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """The answers. Their names are those of the options, with underscores."""

    ci: CiSystemName
    model: DeploymentModel
    app: str
    server: str
    resource_group: str
    function_app: str = ""
    """Empty for releases side by side, whose Function Apps come and go."""
    location: str = ""
    storage_account: str = ""
    router_address: str = ""
    """For releases side by side only."""
    branch: str = "main"
    folder: str = ""
    """The folder of the app in its repository, relative and with slashes; empty for the root."""
    task_hub_setting: str = "TASK_HUB"
    action: str = ""
    """The repository of this project and, after `@`, its commit or tag: `your-org/safe-deploy@v0.1.0`."""
    action_tag: str = ""
    """The tag of the commit that the action names, for people; no option."""
    environment: str = ""
    """For GitHub with slots: the environment of the workflow."""

    @property
    def name_prefix(self) -> str:
        """What the names of task hubs and releases begin with: small letters and digits, a letter first. Names have 32
        characters at most, of which a run's number and attempt take 16."""
        letters = re.sub(r"[^a-z0-9]", "", self.app.lower()).lstrip("0123456789")
        return letters[:16] or "app"

    @property
    def file_suffix(self) -> str:
        """The end of file names for one of several apps of a repository; empty for an app at the root."""
        return f"-{self.app}" if self.folder else ""


_OPTION_NAMES = tuple(field.name for field in fields(PipelineSettings) if field.name != "action_tag")


def format_head(settings: PipelineSettings) -> str:
    """Comment lines for the begin of a written file. They hold the answers, of which none is a secret."""
    words = list(_list_options(settings))
    return (
        f"{_HEAD} {shlex.join(words)}\n"
        "# The file is yours: change what you like. The next `safe-deploy init` takes its answers from the line\n"
        "# above, and never overwrites a change without asking.\n"
    )


def parse_head(text: str) -> dict[str, str]:
    """The answers in the head of a written file, by the names of the fields; empty without a head that can be read."""
    match = _LINE.search(text)
    if match is None:
        return {}
    try:
        words = shlex.split(match["options"])
    except ValueError:
        return {}
    answers = {
        option.removeprefix("--").replace("-", "_"): value for option, value in pairwise(words) if option[:2] == "--"
    }
    answers = {name: value for name, value in answers.items() if name in _OPTION_NAMES and not value.startswith("--")}
    if tag := re.search(rf"{re.escape(answers['action'])} # (v\S+)", text) if "action" in answers else None:
        answers["action_tag"] = tag[1]
    return answers


def _list_options(settings: PipelineSettings) -> Iterator[str]:
    """The options of `safe-deploy init` that give these answers."""
    for name in _OPTION_NAMES:
        if value := str(getattr(settings, name)):
            yield f"--{name.replace('_', '-')}"
            yield value
