"""The sidecar's configuration: sidecar.yaml, checked as a whole, as the structs that the parts work with."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from contract import settings
from contract.errors import ConfigError, Problem, TrackMateError
from sidecar.match import Match
from sinks import registry
from sinks.filesystem import FilesystemConfig

ENV_PREFIX: Final = "TRACKMATE"


@dataclass(frozen=True)
class SpoolSettings:
    """Where the log is and how much of the disk it may take."""

    dir: Path
    max_bytes: int
    segment_bytes: int
    segment_age: float
    """Seconds after which a segment that holds something is closed."""
    high_water: float
    """The part of `max_bytes` above which senders are told to wait."""
    shed: tuple[str, ...] = ()
    """Severities that are given up above the high-water mark; none by default."""


@dataclass(frozen=True)
class BackendSettings:
    """One place to deliver to."""

    name: str
    type: str
    priority: int
    fallback: bool
    match: Match
    timeout: float
    """Seconds that one delivery may take."""
    probe_interval: float
    """Seconds between two tries of a system that is down."""
    config: msgspec.Struct = field(repr=False)
    stands_in_for: tuple[str, ...] = ()
    """For a fallback: the backends without which it takes over."""
    concurrency: int | None = None
    """Calls at once; None: found out from the latency, up to what the sink allows."""


@dataclass(frozen=True)
class TlsSettings:
    """PEM files for TLS on the agent's own port."""

    cert_file: Path
    """The agent's certificate, followed by those between it and the authority."""
    key_file: Path
    client_ca_file: Path | None = None
    """With it, a sender must show a certificate that one of these authorities signed."""


@dataclass(frozen=True)
class SidecarSettings:
    """All of sidecar.yaml."""

    source: str
    host: str
    port: int
    tokens: tuple[str, ...] = field(repr=False)
    """SHA-256 digests, lower-case hex."""
    spool: SpoolSettings
    readers: tuple[str, ...]
    """Readers besides the backends that hold segments until they have passed, such as the lake."""
    adopt: tuple[Path, ...]
    adopt_grace: float
    """Seconds that a spool file of an SDK is left to its owner."""
    shutdown_grace: float
    body_timeout: float
    """Seconds in which a request's body must have come."""
    max_bytes_in_flight: int
    """Bytes of bodies that are held at once; beyond it senders are told to wait."""
    backends: tuple[BackendSettings, ...]
    tls: TlsSettings | None = None

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach the listening address."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether an address or `localhost` names this host only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(file: Path, *, environ: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None) -> SidecarSettings:
    """Read sidecar.yaml; relative paths in it are taken from its folder.

    Raises ConfigError that names every problem.
    """
    tree, problems = settings.examine("sidecar", file, env_prefix=ENV_PREFIX, environ=environ, overrides=overrides)
    base = file.resolve().parent
    if problems:
        known = {problem.path for problem in problems}
        raise ConfigError(str(file), problems + [p for p in _sink_problems(tree, base) if p.path not in known])
    return from_tree(tree["sidecar"], base=base, source=str(file))


def from_tree(tree: Mapping[str, Any], *, base: Path, source: str) -> SidecarSettings:
    """The settings of a mapping that the schema has accepted. Raises ConfigError for what only the sinks can judge."""
    problems: list[Problem] = []
    host, port = _address(tree.get("listen", "127.0.0.1:17000"), problems)
    backends = _backends(tree.get("backends", []), base, problems)
    readers = tuple(tree.get("readers", ()))
    _check_names([*(b.name for b in backends), *readers], problems)
    _check_folders(backends, problems)
    spool = _spool(tree["spool"], base, problems)
    if problems:
        raise ConfigError(source, problems)
    return SidecarSettings(
        source=source,
        host=host,
        port=port,
        tokens=tuple(token.lower() for token in tree.get("tokens", ())),
        spool=spool,
        readers=readers,
        adopt=tuple(base / Path(folder).expanduser() for folder in tree.get("adopt", ())),
        adopt_grace=settings.parse_duration(tree.get("adopt_grace", "2s")),
        shutdown_grace=settings.parse_duration(tree.get("shutdown_grace", "10s")),
        body_timeout=settings.parse_duration(tree.get("body_timeout", "30s")),
        max_bytes_in_flight=settings.parse_size(tree.get("max_bytes_in_flight", "48MiB")),
        backends=tuple(backends),
        tls=_tls(tree.get("tls"), base),
    )


def _address(listen: str, problems: list[Problem]) -> tuple[str, int]:
    host, _, port_text = listen.rpartition(":")
    port = int(port_text)
    if not 0 < port < 65536:
        problems.append(Problem("sidecar.listen", f"expected a port from 1 to 65535, got {port}"))
    return host.strip("[]"), port


def _tls(tree: Mapping[str, str] | None, base: Path) -> TlsSettings | None:
    return None if tree is None else TlsSettings(**{key: base / Path(file).expanduser() for key, file in tree.items()})


def _spool(tree: Mapping[str, Any], base: Path, problems: list[Problem]) -> SpoolSettings:
    max_bytes = settings.parse_size(tree.get("max_bytes", "10GiB"))
    segment_bytes = settings.parse_size(tree.get("segment_bytes", "64MiB"))
    if segment_bytes * 2 > max_bytes:
        problems.append(
            Problem(
                "sidecar.spool.segment_bytes",
                f"expected at most half of max_bytes ({max_bytes}), got {segment_bytes}: whole segments are what is freed",
            )
        )
    return SpoolSettings(
        dir=base / Path(tree["dir"]).expanduser(),
        max_bytes=max_bytes,
        segment_bytes=segment_bytes,
        segment_age=settings.parse_duration(tree.get("segment_age", "30s")),
        high_water=float(tree.get("high_water", 0.8)),
        shed=tuple(tree.get("shed", ())),
    )


def _sink_problems(tree: Mapping[str, Any], base: Path) -> list[Problem]:
    """What the sinks find wrong in a file that the schema refuses for other reasons, so that all is named in one go."""
    problems: list[Problem] = []
    section = tree.get("sidecar")
    backends = section.get("backends") if isinstance(section, dict) else None
    for index, backend in enumerate(backends if isinstance(backends, list) else ()):
        whole = isinstance(backend, dict) and isinstance(backend.get("type"), str) and isinstance(backend.get("config", {}), dict)
        if whole and _sink_config(index, backend, base, problems) is not None:
            _check_concurrency(index, backend, problems)
    return problems


def _sink_config(index: int, tree: Mapping[str, Any], base: Path, problems: list[Problem]) -> msgspec.Struct | None:
    path = f"sidecar.backends[{index}]"
    try:
        return registry.parse_config(tree["type"], tree.get("config", {}), base=base)
    except ConfigError as error:
        problems += [Problem(f"{path}.config.{p.path}".rstrip("."), p.message) for p in error.problems]
    except TrackMateError as error:
        problems.append(Problem(f"{path}.type", str(error)))
    return None


def _backends(trees: Sequence[Mapping[str, Any]], base: Path, problems: list[Problem]) -> list[BackendSettings]:
    backends: list[BackendSettings] = []
    for index, tree in enumerate(trees):
        if not tree.get("enabled", True):
            continue
        config = _sink_config(index, tree, base, problems)
        if config is not None:
            _check_concurrency(index, tree, problems)
            backends.append(
                BackendSettings(
                    name=tree.get("name", tree["type"]),
                    type=tree["type"],
                    priority=tree.get("priority", 100),
                    fallback=tree.get("delivery", "always") == "fallback",
                    match=Match.from_tree(tree.get("match", {})),
                    timeout=settings.parse_duration(tree.get("timeout", "30s")),
                    probe_interval=settings.parse_duration(tree.get("probe_interval", "5s")),
                    config=config,
                    concurrency=tree["concurrency"] if isinstance(tree.get("concurrency"), int) else None,
                )
            )
    backends.sort(key=lambda backend: backend.priority)
    return [_with_primaries(backend, backends, problems) if backend.fallback else backend for backend in backends]


def _check_concurrency(index: int, tree: Mapping[str, Any], problems: list[Problem]) -> None:
    wanted, most = tree.get("concurrency"), registry.sink_class(tree["type"]).limits.max_concurrency
    if isinstance(wanted, int) and wanted > most:
        problems.append(
            Problem(
                f"sidecar.backends[{index}].concurrency",
                f"a '{tree['type']}' backend takes at most {most} calls at once, got {wanted}",
            )
        )


def _with_primaries(fallback: BackendSettings, backends: Sequence[BackendSettings], problems: list[Problem]) -> BackendSettings:
    """A fallback stands in for the backends of better priority that want the same events."""
    primaries = tuple(
        b.name for b in backends if b.priority < fallback.priority and (b.match == fallback.match or b.match.everything)
    )
    if not primaries:
        problems.append(
            Problem(
                f"sidecar.backends ({fallback.name}).delivery",
                "a fallback needs a backend with a lower `priority` number and the same `match` (or none) to stand in for",
            )
        )
    return replace(fallback, stands_in_for=primaries)


def _check_names(names: Sequence[str], problems: list[Problem]) -> None:
    problems += [
        Problem("sidecar.backends", f"the name '{name}' is used {count} times: backends and readers need names of their own")
        for name, count in Counter(names).items()
        if count > 1
    ]


def _check_folders(backends: Sequence[BackendSettings], problems: list[Problem]) -> None:
    """Two backends that write files of the same log to one folder would write the same files."""
    names: dict[Path, list[str]] = {}
    for backend in backends:
        if isinstance(backend.config, FilesystemConfig):
            names.setdefault(backend.config.path.resolve(), []).append(f"'{backend.name}'")
    problems += [
        Problem("sidecar.backends", f"{' and '.join(several)} write to the same folder, {folder}: give each a `path` of its own")
        for folder, several in names.items()
        if len(several) > 1
    ]
