"""Certificates in files, and servers with them, for tests of TLS to releases."""

from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext

from tests.certificates import create_self_signed_certificate


def create_certificate(folder: Path, host: str) -> Path:
    """Create a certificate for a host, with its key in the same file. Returns the file."""
    path = folder / f"{host}.pem"
    path.write_bytes(b"".join(create_self_signed_certificate(host)))
    return path


def build_server_context(certificate: Path) -> SSLContext:
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context
