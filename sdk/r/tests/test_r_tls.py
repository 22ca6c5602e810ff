"""The R SDK over TLS."""

from __future__ import annotations

from sdk.conformance.tls import TlsOfBackends


class TestR(TlsOfBackends):
    """An authority of the site's own comes by `SSL_CERT_FILE`."""

    language = "r"
