"""Addresses of servers and releases."""

from urllib.parse import urlsplit

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def is_on_this_machine(address: str) -> bool:
    """Whether an http or https address leads to the machine that runs safe-deploy."""
    return urlsplit(address).hostname in _LOOPBACK_HOSTS
