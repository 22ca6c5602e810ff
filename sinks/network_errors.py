"""Says in words what went wrong on the network, whatever client library reports it: a name, a port, time, TLS or a cut."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final

_ATTRIBUTES: Final = ("os_error", "reason", "errors", "original_error", "exceptions")
"""Where libraries keep the error behind theirs: aiohttp, urllib3, the Elasticsearch transport, SQLAlchemy, exception groups."""

_EXPIRED: Final = frozenset({10})
_NOT_YET_VALID: Final = frozenset({9})
_WRONG_NAME: Final = frozenset({62, 64})
_NOT_TRUSTED: Final = frozenset({2, 18, 19, 20, 21, 27})
"""OpenSSL's numbers of verification errors (x509_vfy.h): see the manual page X509_STORE_CTX_get_error."""

_NO_TLS_THERE: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
_NOT_TLS_ITSELF: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_NO_ROUTE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTDOWN, errno.ENETDOWN})


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and every error behind it, nearest first, each once."""
    queue: list[BaseException] = [error]
    seen: set[int] = set()
    while queue:
        found = queue.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        behind: list[object] = [found.__cause__, found.__context__]
        for name in _ATTRIBUTES:
            value = getattr(found, name, None)
            behind += value if isinstance(value, list | tuple) else [value]
        queue += [item for item in behind if isinstance(item, BaseException)]


def explain(error: BaseException) -> str | None:
    """What went wrong and what to do about it, as the end of a sentence; None when it is no error of the network."""
    chain = list(causes(error))
    for judge in (_dns, _tls, _refused, _timeout, _route, _cut):
        for found in chain:
            text = judge(found)
            if text is not None:
                return text
    return None


def _dns(error: BaseException) -> str | None:
    if not isinstance(error, socket.gaierror | socket.herror):
        return None
    return (
        f"its name can't be resolved (DNS: {error.strerror or error}): "
        "check how the host is spelt, and this machine's name servers"
    )


def _tls(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error) if hasattr(error, "verify_code") else None  # aiohttp's own has none, the one behind it has
    if not isinstance(error, ssl.SSLError) or isinstance(error, _NOT_TLS_ITSELF) or not hasattr(error, "reason"):
        return None  # nor has its own here
    reason = error.reason or ""
    if reason in _NO_TLS_THERE:
        return "it does not speak TLS at this port: is the port right, or is the address meant to begin with http://?"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason or "BAD_CERTIFICATE" in reason:
        return (
            f"it refuses the TLS handshake ({reason}): "
            "does it ask for a client certificate? Set tls.cert_file and tls.key_file to one that it accepts"
        )
    if "UNKNOWN_CA" in reason or "CERTIFICATE_UNKNOWN" in reason or "CERTIFICATE_EXPIRED" in reason:
        return f"it does not accept this side's certificate ({reason}): put another one into tls.cert_file"
    return f"TLS fails ({reason or error}): do both sides have a protocol version and a cipher in common?"


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    code = error.verify_code
    if code in _EXPIRED:
        return "its TLS certificate has expired: renew it there, or set this machine's clock right"
    if code in _NOT_YET_VALID:
        return "its TLS certificate is not valid yet: set the clocks of both machines right"
    if code in _WRONG_NAME:
        return (
            f"its TLS certificate is for another name ({error.verify_message}): "
            "use a name that the certificate holds, or get one with this name"
        )
    if code in _NOT_TRUSTED:
        return (
            f"its TLS certificate is not trusted ({error.verify_message}): "
            "if it is the right server, set tls.ca_file to the certificate of the authority that signed it"
        )
    return f"its TLS certificate is refused ({error.verify_message or error}): get one for it that this machine accepts"


def _refused(error: BaseException) -> str | None:
    if isinstance(error, ConnectionRefusedError) or (isinstance(error, OSError) and error.errno == errno.ECONNREFUSED):
        return "the connection is refused: is it running there, and is the port right?"
    return None


def _timeout(error: BaseException) -> str | None:
    return "it did not answer in time: is it overloaded or hung?" if isinstance(error, TimeoutError) else None


def _route(error: BaseException) -> str | None:
    if not isinstance(error, OSError):
        return None
    if error.errno in _NO_ROUTE:
        return f"there is no way to its host ({error.strerror}): check the address and this machine's network"
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return f"this machine has no file handle left ({error.strerror}): raise the limit on open files"
    return None


def _cut(error: BaseException) -> str | None:
    if isinstance(error, ConnectionError | EOFError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the connection was cut in the middle: did it restart, or does something between break off?"
    return None
