"""The tokens file: what `trackmate token` writes and the gateway reads, digests only, readable by its owner alone."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from contract.errors import TrackMateError
from contract.tokens import new_token

FILE_NAME = "tokens.json"
"""The name of the tokens file, beside trackmate.yaml."""


_OLD = ".old-"


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One token as it is kept: never the token itself.

    `sites` None means every site; `expires` None means never.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$")]
    scopes: Annotated[tuple[Literal["ingest", "query", "admin"], ...], msgspec.Meta(min_length=1)]
    sites: tuple[str, ...] | None = None
    expires: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None
    created: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None
    revoked: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[TokenRecord] = []


class TokenFileError(TrackMateError):
    """The tokens file can't be used, or a token in it can't be found or made."""


@dataclass(frozen=True)
class TokenFile:
    """Tokens in one JSON file; every change is written aside and renamed, under a lock beside it."""

    path: Path

    def read(self) -> Sequence[TokenRecord]:
        """All records; none when there is no such file. Raises `TokenFileError` when it isn't a tokens file."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Document).tokens
        except FileNotFoundError:
            return ()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"{self.path} is not a tokens file ({error}): mend it or restore it from a backup"
            raise TokenFileError(message) from error
        except OSError as error:
            message = f"{self.path} can't be read ({error.strerror}): give it to the user that the gateway runs as"
            raise TokenFileError(message) from error

    def add(
        self, token_id: str, scopes: Sequence[str], sites: Sequence[str] | None, expires: dt.datetime | None, now: dt.datetime
    ) -> str:
        """Make a token and keep its digest; returns the token, which can't be shown again.

        Raises `TokenFileError` when the id is taken.
        """
        with self._changing() as records:
            if any(record.id == token_id for record in records):
                message = f"there is a token {token_id!r} in {self.path} already: choose another id, or rotate or revoke that one"
                raise TokenFileError(message)
            plain, sha256 = new_token()
            values = {
                "id": token_id,
                "sha256": sha256,
                "scopes": list(scopes),
                "created": now,
                "expires": expires,
                "sites": sites,
            }
            records.append(_record(values))
        return plain

    def revoke(self, token_id: str, now: dt.datetime) -> None:
        """Mark a token revoked, and the older secrets that rotations left; raises `TokenFileError` when it is not there."""
        with self._changing() as records:
            self._place(records, token_id)
            for place, record in enumerate(records):
                named = record.id == token_id or record.id.startswith(f"{token_id}{_OLD}")
                if named and record.revoked is None:
                    records[place] = msgspec.structs.replace(record, revoked=now)

    def rotate(self, token_id: str, now: dt.datetime, grace: dt.timedelta) -> str:
        """Give a token a new secret; the old one goes on for `grace`, under the id with `.old` and the time after it."""
        with self._changing() as records:
            place = self._place(records, token_id)
            current = records[place]
            if current.revoked is not None:
                message = f"token {token_id!r} was revoked: make a new one with `trackmate token new`"
                raise TokenFileError(message)
            plain, sha256 = new_token()
            records[place] = msgspec.structs.replace(current, sha256=sha256, created=now)
            until = now + grace
            records.append(
                msgspec.structs.replace(
                    current,
                    id=f"{token_id}{_OLD}{now:%Y%m%dT%H%M%S%f}",
                    expires=until if current.expires is None else min(until, current.expires),
                    revoked=None if grace else now,
                )
            )
        return plain

    def _place(self, records: Sequence[TokenRecord], token_id: str) -> int:
        for place, record in enumerate(records):
            if record.id == token_id:
                return place
        known = ", ".join(sorted(record.id for record in records)) or "none"
        message = f"there is no token {token_id!r} in {self.path}; known: {known}"
        raise TokenFileError(message)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[TokenRecord]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            records = list(self.read())
            yield records
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
            try:
                with os.fdopen(handle, "wb") as aside:
                    self._keep_owner(aside.fileno())
                    aside.write(msgspec.json.format(msgspec.json.encode(_Document(records)), indent=2) + b"\n")
                    aside.flush()
                    os.fsync(aside.fileno())
                Path(name).replace(self.path)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise

    def _keep_owner(self, handle: int) -> None:
        """Leave the file to whom it, or its folder, belongs: an operator who is root must not lock the gateway out."""
        there = self.path if self.path.exists() else self.path.parent
        status = there.stat()
        if os.geteuid() == 0:
            os.fchown(handle, status.st_uid, status.st_gid)
        if there is self.path:
            os.fchmod(handle, status.st_mode & 0o660)


def _record(values: dict[str, object]) -> TokenRecord:
    try:
        return msgspec.convert(values, TokenRecord)
    except msgspec.ValidationError as error:
        message = f"no token made: {error}"
        raise TokenFileError(message) from error
