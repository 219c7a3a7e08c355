"""Reads and writes files of a repository. A file is written by a rename, so it is never half written.

Nothing outside of the repository is read or written, also not through a symbolic link.
"""

import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safe_deploy.errors import CommandError, ConflictError


@dataclass(frozen=True, slots=True)
class RepositoryFiles:
    """The files below the root of a work tree. Paths are relative, with slashes."""

    root: Path

    def read(self, path: str) -> str | None:
        """The text of a file with its line breaks, or None if it does not exist.

        Raises CommandError for what is no file, is outside of the repository, or is not UTF-8.
        """
        file = self._resolve(path)
        try:
            return file.read_bytes().decode("utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise CommandError(f"{path} is not UTF-8. Convert it, and run the command again") from None
        except OSError as error:
            raise CommandError(f"cannot read {path}: {error.strerror}") from None

    def write(self, path: str, text: str, *, expected: str | None) -> None:
        """Write a file, and create its folder. `expected` is the text that the file has now, None if it is missing.

        Raises ConflictError if the file was changed meanwhile, and CommandError if it cannot be written.
        """
        file = self._resolve(path)
        if self.read(path) != expected:
            raise ConflictError(f"{path} was changed while safe-deploy ran. Run the command again")
        self.require_writable(path)
        mode = 0o644 if expected is None else stat.S_IMODE(file.stat().st_mode)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _replace(file, text.encode("utf-8"), mode)
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror}") from None

    def require_writable(self, path: str) -> None:
        """Raises CommandError for a file that is read-only, which a rename would replace all the same."""
        file = self._resolve(path)
        if file.exists() and not file.stat().st_mode & stat.S_IWUSR:
            raise CommandError(f"{path} is read-only. Make it writable, and run the command again")

    def list_files(self, folder: str) -> list[str]:
        """The paths of the YAML files in a folder, in order. A folder that does not exist has none."""
        directory = self._resolve(folder)
        if not directory.is_dir():
            return []
        names = sorted(entry.name for entry in directory.iterdir() if entry.suffix in {".yml", ".yaml"})
        return [f"{folder}/{name}" for name in names]

    def _resolve(self, path: str) -> Path:
        """The file that a path leads to through symbolic links. Raises CommandError if it is outside."""
        try:
            resolved = (self.root / path).resolve()
        except (OSError, RuntimeError):
            raise CommandError(f"{path} is a symbolic link that leads nowhere. Remove it") from None
        if not resolved.is_relative_to(self.root):
            raise CommandError(
                f"{path} leads out of the repository by a symbolic link, so it is neither read nor written. Replace "
                "the link by a file"
            )
        return resolved


def _replace(file: Path, body: bytes, mode: int) -> None:
    """Replace a file, or create it, in one step. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(body)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
