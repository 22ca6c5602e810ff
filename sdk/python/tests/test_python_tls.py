"""The Python SDK over TLS."""

from __future__ import annotations

from sdk.conformance.tls import TlsSuite


class TestPython(TlsSuite):
    """An authority of the site's own comes by `SSL_CERT_FILE`."""

    language = "python"
