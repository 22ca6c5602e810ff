"""What trackmate.yaml says to the gateway: where to listen, TLS, limits, deadlines and tokens."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from contract.errors import ConfigError, Problem
from contract.settings import parse_duration
from federation.limits import RequestLimits
from federation.token_file import FILE_NAME, TokenRecord


@dataclass(frozen=True)
class Tls:
    """The certificate chain and the private key, both PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class GatewaySettings:
    """Everything that the gateway is told; times are in seconds."""

    host: str = "127.0.0.1"
    port: int = 17080
    tls: Tls | None = None
    limits: RequestLimits = field(default_factory=RequestLimits)
    ingests: int = 32
    body_timeout: float = 30.0
    source_timeout: float = 5.0
    tokens_file: Path = Path(FILE_NAME)

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any], base: Path) -> Self:
        """Read the checked sections `gateway` and `auth` of trackmate.yaml; relative paths are taken from `base`."""
        gateway = config.get("gateway") or {}
        limits = dict(gateway.get("limits") or {})
        ingests = limits.pop("ingests", 32)
        host, _, port = str(gateway.get("listen", "127.0.0.1:17080")).rpartition(":")
        tls = gateway.get("tls")
        return cls(
            host=host.strip("[]"),
            port=int(port),
            tls=None if tls is None else Tls(base / tls["certificate"], base / tls["key"]),
            limits=RequestLimits(**limits),
            ingests=ingests,
            body_timeout=parse_duration(gateway.get("body_timeout", 30.0)),
            source_timeout=parse_duration(gateway.get("source_timeout", 5.0)),
            tokens_file=base / (config.get("auth") or {}).get("file", FILE_NAME),
        )


def configured_tokens(config: Mapping[str, Any], source: str) -> list[TokenRecord]:
    """The tokens under `auth.tokens`; raises `ConfigError` naming every one that can't be read."""
    records: list[TokenRecord] = []
    problems: list[Problem] = []
    for place, entry in enumerate((config.get("auth") or {}).get("tokens") or ()):
        values = dict(entry)
        if isinstance(values.get("expires"), dt.datetime) and values["expires"].tzinfo is None:
            values["expires"] = values["expires"].replace(tzinfo=dt.UTC)  # YAML reads an offset of Z as UTC and drops it
        try:
            records.append(msgspec.convert(values, TokenRecord))
        except msgspec.ValidationError as error:
            problems.append(Problem(f"auth.tokens[{place}]", str(error)))
    if problems:
        raise ConfigError(source, problems)
    return records
