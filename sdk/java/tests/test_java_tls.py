"""The Java SDK over TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sdk.conformance.tls import TlsOfBackends


class TestJava(TlsOfBackends):
    """An authority of the site's own comes by the JVM's trust store."""

    language = "java"

    def trust(self, authority: Path, folder: Path) -> dict[str, str]:
        store = folder / f"{authority.stem}.p12"
        store.unlink(missing_ok=True)
        command = ["keytool", "-importcert", "-noprompt", "-alias", "site", "-file", str(authority), "-keystore", str(store)]
        subprocess.run([*command, "-storetype", "PKCS12", "-storepass", "changeit"], check=True, capture_output=True, timeout=60)
        return {"JAVA_TOOL_OPTIONS": f"-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword=changeit"}
