"""Which hosting service a git remote leads to: GitHub, Azure Repos, or one that is not known. Hides the forms of URLs.

A URL may hold a password. It is never part of what these functions return.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

_SCP_FORM = re.compile(r"(?:[^@/\s]+@)?(?P<host>[A-Za-z0-9.-]+):(?P<path>[^\\].*)")
"""`git@github.com:owner/name.git`, as ssh and scp write it. A drive letter of Windows is no host."""

_OWNER_AND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")


class CiSystemName(StrEnum):
    """The CI systems for which there are templates."""

    GITHUB = "github"
    AZURE_PIPELINES = "azure-pipelines"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A git remote: its name, the host that it leads to, and the repository there, without a secret."""

    name: str
    host: str
    path: str

    @property
    def ci_system(self) -> CiSystemName | None:
        """The CI system of the hosting service, or None for a host that is not known."""
        if self.host in {"dev.azure.com", "ssh.dev.azure.com"} or self.host.endswith("visualstudio.com"):
            return CiSystemName.AZURE_PIPELINES
        if self.host in {"github.com", "ssh.github.com"} or self.host.endswith(".ghe.com"):
            return CiSystemName.GITHUB
        return CiSystemName.GITHUB if "github" in self.host.split(".") else None

    @property
    def github_repository(self) -> str | None:
        """The repository as `gh` names it: `owner/name`, with the host before it if that is not github.com."""
        if _OWNER_AND_NAME.fullmatch(self.path) is None:
            return None
        host = "github.com" if self.host == "ssh.github.com" else self.host
        return self.path if host == "github.com" else f"{host}/{self.path}"

    def __str__(self) -> str:
        """The remote for messages."""
        return f"{self.name} ({self.host}/{self.path})" if self.host else self.name


def parse_remote(name: str, url: str) -> Remote:
    """The remote with this URL. A folder on this machine has no host."""
    url = url.strip()
    parts = urlsplit(url) if "://" in url else None
    if parts is not None:
        host, path = parts.hostname or "", unquote(parts.path)
    elif match := _SCP_FORM.fullmatch(url):
        host, path = match["host"].lower(), match["path"]
    else:
        host, path = "", ""
    if len(host) == 1 or (parts is not None and parts.scheme == "file"):
        host, path = "", ""
    return Remote(name=name, host=host.rstrip("."), path=path.strip("/").removesuffix(".git"))
