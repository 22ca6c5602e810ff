"""The `tls` block that every sink with TLS in its protocol takes, and the ssl.SSLContext that is made of it."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec

from sinks.base import Unavailable


class Tls(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The `tls` block of a backend."""

    ca_file: Path | None = None
    """PEM file with the certificates that are trusted, in place of those that this machine trusts."""
    verify: bool = True
    """Whether the server's certificate and name are checked; without it, anybody on the way can read and change events."""
    cert_file: Path | None = None
    """PEM file with the certificate that this side shows, where the server asks for one."""
    key_file: Path | None = None
    """PEM file with its key, when that is not in `cert_file`; a key with a passphrase is not taken."""


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """A client's context, TLS 1.2 or later. Raises Unavailable, which names the file, when one of them can't be used."""
    context = _trusting(tls.ca_file)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None:
        try:
            # Without a password of its own OpenSSL would ask for one on the terminal, and wait.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"tls.cert_file '{tls.cert_file}' and tls.key_file '{tls.key_file}' can't be used ({_reason(error)}): "
                "both must be PEM files that this user may read, and the key must be the certificate's, without a passphrase"
            ) from error
    elif tls.key_file is not None:
        raise Unavailable("tls.key_file is set without tls.cert_file: set both, or neither")
    return context


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    if ca_file is not None:
        try:
            return ssl.create_default_context(cafile=ca_file)
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"tls.ca_file '{ca_file}' can't be used ({_reason(error)}): "
                "name a PEM file of certificates that this user may read"
            ) from error
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        # A Python that was built elsewhere may look for this machine's certificates where there are none.
        import certifi

        return ssl.create_default_context(cafile=certifi.where())
    return ssl.create_default_context()


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
