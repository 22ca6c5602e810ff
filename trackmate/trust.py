"""Whom the command line believes over TLS: this machine's own services by their very certificate, others as the machine does."""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contract.errors import TrackMateError

_END: Final = "-----END CERTIFICATE-----"
_WANTS_CERTIFICATE: Final = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN")
"""Alerts of a server that asks for a certificate and does not like the one that it was shown, or none."""


@dataclass(frozen=True)
class OwnCertificate:
    """The PEM files that a service of this machine serves with."""

    cert_file: Path
    key_file: Path

    def context(self) -> ssl.SSLContext:
        """Believe nobody but who has this certificate's key, under whatever name; show the same where one is asked for.

        Raises TrackMateError when the file can't be read.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            # The first one is the service's; whoever signed it may have signed others too.
            first, end, _ = self.cert_file.read_text(encoding="ascii", errors="replace").partition(_END)
            context.load_verify_locations(cadata=first + end)
        except (ssl.SSLError, ValueError) as error:
            raise TrackMateError(f"{self.cert_file} holds no certificate: expected a PEM file") from error
        except OSError as error:
            raise TrackMateError(f"can't read the certificate {self.cert_file}: {error.strerror}") from error
        # The key is for the service's user alone, so somebody else has nothing to show, and learns so if it is asked for.
        with suppress(OSError, ssl.SSLError, ValueError):
            context.load_cert_chain(self.cert_file, self.key_file, password="")
        return context


def machine(url: str) -> ssl.SSLContext | bool:
    """What to believe at an address that was given: what OpenSSL on this machine does, SSL_CERT_FILE included."""
    return ssl.create_default_context() if url.startswith("https:") else False


def advice(error: Exception, own: OwnCertificate | None = None) -> str:
    """What to do about a failed connection when TLS is why; empty otherwise. `own` is who was expected there."""
    words = str(error).upper().replace(" ", "_")
    if "CERTIFICATE_VERIFY_FAILED" in words:
        if own is not None:
            return f": it does not serve with {own.cert_file}. Is it another service, or was the file changed since it started?"
        return ": its certificate is not trusted. If the site's own authority signed it, set SSL_CERT_FILE to that one's file"
    if wants_certificate(error):
        return ": it asks for a client certificate that it trusts, and none can be shown here"
    if "WRONG_VERSION_NUMBER" in words or "RECORD_LAYER_FAILURE" in words:
        return ": it does not speak TLS; write http://"
    if "ILLEGAL_REQUEST_LINE" in words or "DISCONNECTED_WITHOUT" in words:
        return ": if it speaks TLS, write https://"
    return ""


def wants_certificate(error: Exception) -> bool:
    """Whether a server ended the handshake because of the certificate that it was shown, or for lack of one."""
    words = str(error).upper().replace(" ", "_")
    return "ALERT" in words and any(word in words for word in _WANTS_CERTIFICATE)
