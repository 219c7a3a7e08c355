"""What a request that got no response says about the server.

A restart, or a start from zero instances, refuses connections, breaks them or answers late. It never makes a name
unknown or a certificate invalid, and nothing that is to be deployed to runs on this machine: such an address is wrong.
"""

import socket
import ssl
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from safe_deploy.addresses import is_on_this_machine

Cause = TypeVar("Cause", bound=BaseException)


def describe_request_error(error: httpx.RequestError) -> str:
    """Why the request got no response. httpx puts URLs into its texts, but never headers."""
    refusal = _find_cause(error, OSError)
    if refusal is not None and refusal.strerror:
        return refusal.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def find_address_error(error: httpx.RequestError, url: str) -> str | None:
    """Why no request can reach a server at `url`, with what to check; None if a restart can be the reason."""
    if (untrusted := _find_cause(error, ssl.SSLCertVerificationError)) is not None:
        return (
            f"the certificate of {url} is not trusted: {untrusted.verify_message}. Check the name in --server. For an "
            "authority of your own, set SSL_CERT_FILE to its certificate"
        )
    if _goes_through_proxy(url):
        # The error may be about the proxy.
        return None
    unknown_name = _find_cause(error, socket.gaierror)
    # EAI_AGAIN says nothing about the name: the resolver did not answer.
    if unknown_name is not None and unknown_name.errno != socket.EAI_AGAIN:
        return (
            f"the name {urlsplit(url).hostname} in --server cannot be resolved: {unknown_name.strerror}. Check its "
            "spelling. A server with a private endpoint is known only in networks that use its private DNS zone"
        )
    tls_error = _find_cause(error, ssl.SSLError)
    if tls_error is not None and not isinstance(tls_error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return f"{url} does not answer over TLS: {tls_error.reason}. Check scheme and port of --server"
    if _find_cause(error, ConnectionRefusedError) is not None and is_on_this_machine(url):
        return f"no server listens at {url} on this machine. Start it, or set --server to the address of the server"
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return f"no request can be sent to {url}: {error}. Check --server"
    return None


def _goes_through_proxy(url: str) -> bool:
    """Whether httpx sends requests to this URL through the proxy of an environment variable, such as HTTPS_PROXY or
    ALL_PROXY."""
    parts = urlsplit(url)
    return not getproxies().keys().isdisjoint({parts.scheme, "all"}) and not proxy_bypass(parts.netloc)


def _find_cause(error: BaseException, kind: type[Cause]) -> Cause | None:
    """The first error of this kind among an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, kind):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
