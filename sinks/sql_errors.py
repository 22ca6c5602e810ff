"""What the errors of PostgreSQL and of MySQL mean for a sink: an event's fault, the moment's, or the operator's to mend."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final

from sqlalchemy.exc import DBAPIError

from sinks.base import RAISED_SHOWN

_POSTGRES_DATA: Final = ("22", "23")
"""Classes of SQLSTATE that judge the data (PostgreSQL's manual, Appendix A)."""

_COPY_COLUMN: Final = re.compile(r"COPY \w+, line \d+, column (\w+)")
_POSTGRES_CLASH: Final = frozenset({"40001", "40P01", "55P03"})
_POSTGRES_BUSY: Final = frozenset({"53300", "53400", "57P03", "57014", "53200"})
_POSTGRES_ADVICE: Final = {
    "28P01": "the credential is refused: correct user and password in `url`",
    "28000": "the server lets this user or host not in (pg_hba.conf): correct `url`, or allow it there",
    "3D000": "there is no such database: create it, or correct `url`",
    "42501": "this user lacks the permission: grant INSERT and SELECT on the table",
    "42P01": "the table does not exist: create it, or set create_table: true",
    "42703": "the table lacks a column of the layout: add it",
    "42P10": "the table's unique index on event_id is gone: make it again",
    "3F000": "there is no such schema: create it, or correct `schema`",
    "25006": "the database is read-only: is it a standby? Name the primary in `url`",
    "53100": "its disk is full: make room there",
    "53300": "it has no connection free: raise max_connections, or close others",
    "57P03": "it is starting up or shutting down",
    "57014": "it took longer than `timeout` for a batch: is it overloaded, or is the table locked?",
}
_LIBPQ_ADVICE: Final = {
    "password authentication failed": _POSTGRES_ADVICE["28P01"],
    "no password supplied": "the server asks for a password: put one into `url`",
    "no pg_hba.conf entry": _POSTGRES_ADVICE["28000"],
    " does not exist": _POSTGRES_ADVICE["3D000"],
    "too many clients": _POSTGRES_ADVICE["53300"],
    "remaining connection slots": _POSTGRES_ADVICE["53300"],
    "the database system is": _POSTGRES_ADVICE["57P03"],
    "certificate has expired": "its TLS certificate has expired: renew it there, or set this machine's clock right",
    "does not match host name": "its TLS certificate is for another name: use a name that the certificate holds",
    "certificate verify failed": "its TLS certificate is not trusted: set tls.ca_file to that of the authority that signed it",
    "server does not support SSL": "the server does not speak TLS: turn it on there (ssl = on), or leave `tls` out",
    "could not translate host name": "its name can't be resolved (DNS): check how the host is spelt",
    "failed to resolve host": "its name can't be resolved (DNS): check how the host is spelt",
}
"""What libpq says when no connection comes about: then there is no SQLSTATE."""

_MYSQL_DATA: Final = frozenset(
    {1048, 1062, 1118, 1153, 1264, 1265, 1292, 1300, 1364, 1366, 1406, 1452, 1644, 1690, 3140, 3141, 3156, 3819, 3854, 4025, 4078}
)
"""Errors that judge the data (MariaDB's and MySQL's Server Error Code Reference)."""

_MYSQL_CLASH: Final = frozenset({1020, 1205, 1213, 1412})
_MYSQL_BUSY: Final = frozenset({1040, 1203, 1226, 1969, 3024, 1053, 1317})
_MYSQL_ADVICE: Final = {
    1045: "the credential is refused: correct user and password in `url`",
    1698: "the credential is refused: this user may not log in with a password",
    1044: "this user may not use the database: grant INSERT and SELECT on the table",
    1049: "there is no such database: create it, or correct `url`",
    1142: "this user lacks the permission: grant INSERT, UPDATE and SELECT on the table",
    1143: "this user lacks the permission on a column: grant INSERT, UPDATE and SELECT on the table",
    1146: "the table does not exist: create it, or set create_table: true",
    1054: "the table lacks a column of the layout: add it",
    1021: "its disk is full: make room there",
    1114: "the table is full: make room there, or raise its limit",
    1290: "the database is read-only: name the primary in `url`",
    1836: "the database is read-only: name the primary in `url`",
    1792: "the session is read-only: name the primary in `url`",
    1040: "it has no connection free: raise max_connections, or close others",
    1969: "it took longer than `timeout` for a batch: is it overloaded, or is the table locked?",
    3024: "it took longer than `timeout` for a batch: is it overloaded, or is the table locked?",
}


_MYSQL_CONNECTION: Final = frozenset({0, 2002, 2003, 2006, 2013, 2055})


class Verdict(Enum):
    """Whom an error is about."""

    EVENT = "an event can't be stored"
    CLASH = "another transaction was in the way"
    BUSY = "the server asks for patience"
    MEND = "nothing gets through until it is mended"


def verdict(error: DBAPIError) -> Verdict:
    """Whom this error is about."""
    code = _code(error)
    if isinstance(code, str):
        if code.startswith(_POSTGRES_DATA) or code == "54000":
            return Verdict.EVENT
        return Verdict.CLASH if code in _POSTGRES_CLASH else Verdict.BUSY if code in _POSTGRES_BUSY else Verdict.MEND
    if code in _MYSQL_DATA:
        return Verdict.EVENT
    return Verdict.CLASH if code in _MYSQL_CLASH else Verdict.BUSY if code in _MYSQL_BUSY else Verdict.MEND


def advice(error: DBAPIError) -> str | None:
    """What to do about it; None when neither code nor text says it."""
    code = _code(error)
    if code is None:
        text = str(error.orig)
        return next((told for part, told in _LIBPQ_ADVICE.items() if part in text), None)
    return _POSTGRES_ADVICE.get(code) if isinstance(code, str) else _MYSQL_ADVICE.get(code or 0)


def unreached(error: DBAPIError) -> bool:
    """Whether it tells of the connection, not of what was asked over it."""
    code = _code(error)
    return error.connection_invalidated or code is None or code in _MYSQL_CONNECTION or str(code).startswith("08")


def words(error: DBAPIError) -> str:
    """What the database said, in one line, without the statement and its values."""
    original: Any = error.orig
    diagnosis = getattr(original, "diag", None)
    if diagnosis is not None and diagnosis.message_primary:
        # PostgreSQL's context quotes the value; of that, only the column's name is told.
        column = _COPY_COLUMN.search(diagnosis.context or "")
        text = diagnosis.message_primary + (f", column {column[1]}" if column else "")
    else:
        arguments = getattr(original, "args", ())
        text = str(arguments[-1]) if arguments else str(original)
    return f"{' '.join(text.split())[:RAISED_SHOWN]} ({_code(error) or type(original).__name__})"


def _code(error: DBAPIError) -> str | int | None:
    """MySQL's number or PostgreSQL's SQLSTATE; MySQL has a SQLSTATE too, which says less."""
    original: Any = error.orig
    arguments = getattr(original, "args", ())
    if arguments and isinstance(arguments[0], int):
        return arguments[0]
    return getattr(original, "sqlstate", None)
