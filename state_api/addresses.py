"""Which hosts are this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether this is a name or an address of this machine that no other machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
