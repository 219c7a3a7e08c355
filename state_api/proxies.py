"""Proxies for HTTP that the environment of this process names."""

import urllib.request
from typing import Any


def environment_proxy_option() -> dict[str, Any]:
    """The option with which clients of Azure's libraries use the proxies of the environment, if there are any.

    The libraries use them by default. For each request, aiohttp then reads the environment and a file of passwords
    (`.netrc`), each in another thread. That takes a third of the processor time of a request to a table, and a busy
    process waits for both threads. The passwords are of no use, because Azure's libraries sign their requests.
    """
    return {"use_env_settings": bool(urllib.request.getproxies())}
