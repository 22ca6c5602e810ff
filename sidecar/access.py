"""Who may talk to the sidecar: judged on the headers alone, before a byte of the body is read.

With tokens configured a request needs one of them. Without, only this host may ask, and only by a name of this host, so that
a web page in a browser here can't reach the agent through a name of its own (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from sidecar.answers import Refusal
from sidecar.config import is_loopback

_BEARER: Final = "bearer "


class Access:
    """Decides over requests; `digests` are SHA-256 of the accepted tokens as lower-case hex."""

    def __init__(self, digests: Sequence[str], listen_host: str) -> None:
        self._digests = tuple(digests)
        self._listen_host = listen_host.lower()

    @property
    def open_to_loopback(self) -> bool:
        """Whether no token is configured."""
        return not self._digests

    def check(self, authorization: str | None, peer: str | None, host: str | None) -> None:
        """Let a request for data pass. Raises Refusal (401) otherwise."""
        if self._digests:
            self._check_token(authorization)
        else:
            self.check_local(peer, host)

    def check_local(self, peer: str | None, host: str | None) -> None:
        """Without tokens, let only this host pass. Raises Refusal (401) otherwise."""
        if self._digests:
            return
        if peer is None or not is_loopback(peer):
            raise Refusal(
                401, "token_required", "no token is configured here, so only this host may send: configure sidecar.tokens"
            )
        if not self._own_name(host):
            raise Refusal(
                401,
                "foreign_host",
                "no token is configured here, so the Host header must name this host: use localhost or 127.0.0.1",
            )

    def _check_token(self, authorization: str | None) -> None:
        if authorization is None or authorization[: len(_BEARER)].lower() != _BEARER:
            raise Refusal(401, "token_required", "send a token in the header 'Authorization: Bearer …'")
        digest = hashlib.sha256(authorization[len(_BEARER) :].strip().encode("latin-1", "replace")).hexdigest()
        known = False
        for expected in self._digests:
            known |= hmac.compare_digest(digest, expected)
        if not known:
            raise Refusal(401, "token_unknown", "this token is not accepted here: it may be wrong or revoked")

    def _own_name(self, host: str | None) -> bool:
        if host is None:
            return False
        name = host.lower()
        name = name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
        return name == self._listen_host or is_loopback(name)
