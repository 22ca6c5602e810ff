"""TLS on the agent's own port: are the files fit to serve with? Found out at the start, not by the first sender."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from contract.errors import Problem
from sidecar.config import TlsSettings

_PATH = "sidecar.tls"


def problems(tls: TlsSettings) -> list[Problem]:
    """What is wrong with the files: missing, unreadable, not a pair, expired or not valid yet. Blocking I/O."""
    found = [
        Problem(f"{_PATH}.{key}", f"can't read {path}: {trouble}")
        for key, path in (("cert_file", tls.cert_file), ("key_file", tls.key_file), ("client_ca_file", tls.client_ca_file))
        if path is not None and (trouble := _unreadable(path))
    ]
    if any(problem.path != f"{_PATH}.client_ca_file" for problem in found):
        return found
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password of its own OpenSSL would ask for one on the terminal, and wait.
        server.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except (ssl.SSLError, ValueError) as error:
        words = (
            f"{tls.cert_file} and {tls.key_file} can't be used ({_reason(error)}): "
            "expected PEM files of a certificate and its own key, without a passphrase"
        )
        return [*found, Problem(f"{_PATH}.cert_file", words)]
    invalid = _judge_certificate(server, tls.cert_file)
    if invalid:
        found.append(Problem(f"{_PATH}.cert_file", f"{tls.cert_file}: {invalid}: renew it"))
    if tls.client_ca_file is not None and not _unreadable(tls.client_ca_file):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(tls.client_ca_file)
        except ssl.SSLError as error:
            words = f"{tls.client_ca_file} holds no certificate ({_reason(error)}): expected a PEM file"
            found.append(Problem(f"{_PATH}.client_ca_file", words))
    return found


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror or os.strerror(error.errno or 0)
    return None


def _judge_certificate(server: ssl.SSLContext, cert_file: Path) -> str | None:
    """Shake hands in memory with a client that trusts this very certificate: what is left to object to is its time."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cert_file)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for _ in range(4):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return None


def _reason(error: ssl.SSLError | ValueError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)
