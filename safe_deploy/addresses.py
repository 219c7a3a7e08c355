"""Addresses of servers and releases."""

from urllib.parse import urlsplit

_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def is_on_this_machine(address: str) -> bool:
    """Whether an http or https address leads to the machine that runs safe-deploy."""
    return urlsplit(address).hostname in _LOOPBACK_HOSTS


_DEFAULT_PORTS = {"https": 443, "http": 80}


def normalize_address(address: str) -> str:
    """An http or https address without a path, in a form that can be compared: in lower case, without a default port
    and a final slash. Raises ValueError for a port that is no number."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port not in (None, _DEFAULT_PORTS.get(parts.scheme)) else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
