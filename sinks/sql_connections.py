"""How the `sql` sink connects: what each driver is told, and what each session begins with."""

from __future__ import annotations

from typing import Any, Final

from sinks.tls import Tls, ssl_context

# Without strict mode MySQL cuts what is too long and says nothing; without this list a site's own mode could change what
# quotes and backslashes mean.
_MYSQL_MODE: Final = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"


def postgres_arguments(tls: Tls | None, connect_timeout: float, timeout: float) -> dict[str, Any]:
    """What psycopg is told. Raises Unavailable when a certificate can't be used."""
    arguments: dict[str, Any] = {
        "connect_timeout": int(connect_timeout),
        "tcp_user_timeout": int(timeout * 1000),
        "application_name": "trackmate",
        "client_encoding": "utf8",
        # A pooler between may give each transaction another session.
        "prepare_threshold": None,
    }
    if tls is not None:
        ssl_context(tls)
        arguments["sslmode"] = "verify-full" if tls.verify else "require"
        if tls.verify or tls.ca_file is not None:
            arguments["sslrootcert"] = str(tls.ca_file) if tls.ca_file else "system"
        files = {"sslcert": tls.cert_file, "sslkey": tls.key_file or tls.cert_file}
        arguments |= {name: str(file) for name, file in files.items() if file is not None}
    return arguments


def mysql_arguments(tls: Tls | None, connect_timeout: float, timeout: float) -> dict[str, Any]:
    """What PyMySQL is told. Raises Unavailable when a certificate can't be used."""
    arguments: dict[str, Any] = {
        "connect_timeout": int(connect_timeout),
        "read_timeout": timeout,
        "write_timeout": timeout,
        "charset": "utf8mb4",
        "local_infile": False,
    }
    if tls is not None:
        arguments["ssl"] = ssl_context(tls)
    return arguments


def session_settings(backend: str, timeout: float) -> list[str]:
    """Statements that each session begins with: UTC, and an end to what takes too long."""
    if backend == "postgresql":
        milliseconds = int(timeout * 1000)
        return [
            "SET TIME ZONE 'UTC'",
            f"SET statement_timeout = {milliseconds}",
            f"SET lock_timeout = {milliseconds // 2}",
            f"SET idle_in_transaction_session_timeout = {milliseconds}",
        ]
    return [
        "SET NAMES utf8mb4",
        "SET SESSION time_zone = '+00:00'",
        f"SET SESSION sql_mode = '{_MYSQL_MODE}'",
        f"SET SESSION innodb_lock_wait_timeout = {max(1, int(timeout / 2))}",
    ]
