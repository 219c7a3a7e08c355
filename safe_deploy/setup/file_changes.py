"""The changes of files that `safe-deploy init` wants to make, and which of them it makes.

A new file is written. A file that gets an addition is changed, after its diff was shown. A file that a person may have
edited is replaced only if the person at the terminal agrees.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from safe_deploy.prompts import Prompts
from safe_deploy.setup.repository_files import RepositoryFiles


class StepStatus(StrEnum):
    """What became of a step."""

    CREATED = "Created"
    CHANGED = "Changed"
    UNCHANGED = "Unchanged"
    KEPT = "Kept"
    """It differs, and stays as it is."""
    TO_DO = "ToDo"
    """A person must do it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """A step, what became of it, and what a person should know."""

    step: str
    status: StepStatus
    detail: str
    diff: str = ""

    def to_json(self) -> dict[str, str]:
        """The step as an element of `steps` in the JSON result of `safe-deploy init`."""
        members = {"step": self.step, "status": self.status.value, "detail": self.detail}
        return members | ({"diff": self.diff} if self.diff else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A file as it is, None if it is missing, and as it should be."""

    path: str
    before: str | None
    after: str
    is_addition: bool = False
    """Whether it only adds to what is there."""
    replaceable: bool = True
    """Whether the file is replaced if the person agrees. Otherwise an existing file stays."""

    @property
    def is_needed(self) -> bool:
        """Whether the file differs. Line breaks of Windows, which git may have made, and a byte order mark, which
        an editor may have, are no difference."""
        return self.before is None or _normalize(self.before) != _normalize(self.after)

    def format_diff(self) -> str:
        """The change as a unified diff; empty if there is none."""
        if not self.is_needed:
            return ""
        old = _normalize(self.before or "").splitlines()
        new = _normalize(self.after).splitlines()
        source = "/dev/null" if self.before is None else f"a/{self.path}"
        return "\n".join(difflib.unified_diff(old, new, source, f"b/{self.path}", lineterm=""))


@dataclass(frozen=True, slots=True)
class DecidedChange:
    """A change, and whether it is made."""

    change: FileChange
    is_made: bool

    @property
    def is_refused(self) -> bool:
        """Whether the set-up needs the change, and a person has not agreed to it."""
        return self.change.is_needed and self.change.replaceable and not self.is_made


def decide_change(change: FileChange, prompts: Prompts, show_diff: Callable[[str], None]) -> DecidedChange:
    """Decide about a change. Asks, after the diff was shown. Raises UsageError if no question can be asked."""
    if not change.is_needed or (change.before is not None and not change.replaceable):
        return DecidedChange(change, is_made=False)
    if change.before is None:
        return DecidedChange(change, is_made=True)
    if prompts.assume_yes:
        return DecidedChange(change, is_made=change.is_addition)
    show_diff(change.format_diff())
    return DecidedChange(change, is_made=prompts.confirm(f"Change {change.path} as shown?"))


def make_change(decided: DecidedChange, files: RepositoryFiles, *, dry_run: bool) -> StepResult:
    """Write the file if that was decided. Raises CommandError."""
    change = decided.change
    if not change.is_needed:
        return StepResult(step=change.path, status=StepStatus.UNCHANGED, detail="it is as it should be")
    if not decided.is_made:
        detail = "it exists, and is yours" if not change.replaceable else "it differs from what init would write"
        return StepResult(step=change.path, status=StepStatus.KEPT, detail=detail, diff=change.format_diff())
    if not dry_run:
        after = change.after
        if "\r\n" in (change.before or "") and "\r\n" not in after:
            after = after.replace("\n", "\r\n")
        files.write(change.path, after, expected=change.before)
    status = StepStatus.CREATED if change.before is None else StepStatus.CHANGED
    return StepResult(
        step=change.path,
        status=status,
        detail="as a diff shows" if dry_run else "written",
        diff=change.format_diff() if dry_run else "",
    )


def _normalize(text: str) -> str:
    """The text without a byte order mark and the line breaks of Windows."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
