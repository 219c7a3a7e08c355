"""What a server that has just started says to the person who started it: its address, the key, and a command to try."""

from collections.abc import Sequence

from state_api.addresses import is_loopback
from state_api.settings import STATE_KEYS, AccessKey

_LOOPBACK = "127.0.0.1"
_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104  # compared with, not listened on
_MAX_LISTED_KEYS = 5


def describe_first_steps(host: str, port: int, keys: Sequence[AccessKey]) -> str:
    """What to do next, for a server that listens on this host and port. Names the keys, which is no secret."""
    url = build_url(host, port)
    return "\n".join(
        [
            "",
            f"  The state server listens on {url} until you press Ctrl-C.",
            f"  {_describe_keys(host, keys)}",
            f"  Try it in a second terminal:  curl {url}/api/health/ready",
            f"  In a browser, {url} names the version and the documents.",
            "  README.md goes on under 'The first guarded deployment'.",
            "",
        ]
    )


def build_url(host: str, port: int) -> str:
    """The address at which this machine reaches a server that listens on this host and port."""
    reachable = _LOOPBACK if host in _WILDCARDS else host
    return f"http://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"


def _describe_keys(host: str, keys: Sequence[AccessKey]) -> str:
    """Whether requests need a key, and which keys the server knows."""
    if not keys:
        assert is_loopback(host), "the server refuses to start without keys where other machines reach it"
        return "No key is needed: it answers this machine only."
    listed = ", ".join(f"{key.name} ({key.role})" for key in keys[:_MAX_LISTED_KEYS])
    more = f" and {len(keys) - _MAX_LISTED_KEYS} more" if len(keys) > _MAX_LISTED_KEYS else ""
    sent_as = "as SAFE_DEPLOY_KEY or in the header x-functions-key"
    return f"Operations need a key of {STATE_KEYS}, {sent_as}: {listed}{more}."
