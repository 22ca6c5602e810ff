"""Who is asking: bearer tokens, what each may do, and for which sites.

Tokens are 256 random bits, shown once; configuration and the tokens file hold only their SHA-256. Both are looked at again when
they change, at most `RECHECK_SECONDS` after it, so a revoked token is dead within that time, without a restart.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

from contract.errors import TrackMateError
from contract.tokens import digest
from federation.token_file import TokenFile, TokenRecord

Scope = Literal["ingest", "query", "admin"]
SCOPES: Final = ("ingest", "query", "admin")
"""What a token may be allowed: to send events, to read, to change the gateway's own settings. None implies another."""

RECHECK_SECONDS: Final = 1.0
"""How often the files that hold tokens are looked at for a change; well within the 5 s promised for a revocation."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Principal:
    """Who a request speaks for.

    `sites` is the set of site ids it may see and send for; None means all of them.
    """

    token_id: str
    scopes: frozenset[str]
    sites: frozenset[str] | None = None

    def may(self, scope: str) -> bool:
        """Whether this principal was given `scope`."""
        return scope in self.scopes

    def sees(self, site_id: str) -> bool:
        """Whether this principal may see or send events of `site_id`."""
        return self.sites is None or site_id in self.sites

    def cache_key(self) -> tuple[object, ...]:
        """What of the principal changes an answer: two principals with equal keys may share a cached one."""
        return (tuple(sorted(self.scopes)), None if self.sites is None else tuple(sorted(self.sites)))


LOOPBACK: Final = Principal("loopback", frozenset(SCOPES), None)
"""Everyone on this machine, while no token has been configured at all."""


class Denied(TrackMateError):
    """A request is refused on its headers: `status` 401 or 403, a stable `code`, and what to do about it."""

    def __init__(self, status: int, code: str, message: str, hint: str) -> None:
        self.status = status
        self.code = code
        self.hint = hint
        super().__init__(message)


class TokenSource(Protocol):
    """A place that tokens are kept in, as a file whose change can be seen."""

    @property
    def path(self) -> Path:
        """The file that is watched."""

    def read(self) -> Sequence[TokenRecord]:
        """All records in it, those of revoked tokens too; an absent file has none."""


@dataclass
class ConfiguredTokens:
    """The tokens under `auth.tokens` of trackmate.yaml, read anew through `load` when that file changes."""

    path: Path
    load: Callable[[], Sequence[TokenRecord]]

    def read(self) -> Sequence[TokenRecord]:
        """The records that the configuration names now."""
        return self.load()


@dataclass
class TokenStore:
    """The tokens that are valid now, from every source, re-read when a source changes.

    Once any token has been seen, tokens are required until the process ends: taking the last one away must close the door,
    not open it.
    """

    sources: Sequence[TokenSource]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    _stamps: dict[Path, tuple[int, int, int] | None] = field(default_factory=dict, init=False)
    _records: dict[Path, Sequence[TokenRecord]] = field(default_factory=dict, init=False)
    _by_digest: Mapping[str, TokenRecord] = field(default_factory=dict, init=False)
    _checked: float = field(default=float("-inf"), init=False)
    _required: bool = field(default=False, init=False)

    def load(self) -> None:
        """Read every source now; raises what the source raises when it is wrong, so that a start fails loudly."""
        for source in self.sources:
            self._stamps[source.path] = _stamp(source.path)
            self._records[source.path] = source.read()
        self._index()
        self._checked = self.clock()

    @property
    def required(self) -> bool:
        """Whether a request must carry a token; False only while none has ever been configured."""
        self._refresh()
        return self._required

    def authenticate(self, token: str) -> Principal:
        """The principal that `token` stands for; raises `Denied` (401) when it is unknown, expired or revoked."""
        self._refresh()
        record = self._by_digest.get(digest(token))
        if record is None:
            raise Denied(
                401,
                "unknown_token",
                "the bearer token is not known here",
                "check the token, or make one with `trackmate token new`",
            )
        if record.revoked is not None:
            raise Denied(401, "revoked_token", f"token {record.id} was revoked", "ask the operator for another one")
        if record.expires is not None and record.expires <= self.now():
            raise Denied(401, "expired_token", f"token {record.id} expired", "renew it with `trackmate token rotate`")
        return Principal(record.id, frozenset(record.scopes), None if record.sites is None else frozenset(record.sites))

    def _refresh(self) -> None:
        now = self.clock()
        if now - self._checked < RECHECK_SECONDS:
            return
        self._checked = now
        changed = False
        for source in self.sources:
            stamp = _stamp(source.path)
            if stamp == self._stamps.get(source.path):
                continue
            try:
                self._records[source.path] = source.read()
            except (TrackMateError, OSError) as error:
                LOG.warning("tokens not re-read, the last good ones stay in force: %s", error)
            self._stamps[source.path] = stamp
            changed = True
        if changed:
            self._index()

    def _index(self) -> None:
        records = [record for found in self._records.values() for record in found]
        self._by_digest = {record.sha256.lower(): record for record in records}
        self._required = self._required or bool(records)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def tokens_in(path: Path) -> TokenFile:
    """The tokens file as a source for `TokenStore`."""
    return TokenFile(path)
