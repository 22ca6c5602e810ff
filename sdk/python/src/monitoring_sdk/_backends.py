"""Which transport serves which type of backend: `sidecar`, `filesystem` and `webhook` are built in, all others are sinks.

The built-in ones serve their types whatever else is installed, so that installing a package changes nothing about how events
are written. What they can't do (`filesystem` with `format: parquet`, `webhook` with templates) the sinks of those names do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monitoring_sdk import _webhook
from monitoring_sdk._config import BackendSettings, SidecarSettings
from monitoring_sdk._filesystem import FILESYSTEM_SETTINGS, FilesystemBackend
from monitoring_sdk._http import SidecarTransport
from monitoring_sdk._transport import Backend, Plain


def judge(kind: str, config: Mapping[str, Any], base: Path | None) -> Iterable[tuple[str, str]]:
    """What is wrong with a backend's type or config block: places below the backend, and messages."""
    if _is_built_in(kind, config):
        return _webhook.problems(config) if kind == "webhook" else ()
    from monitoring_sdk import _sinks

    return _sinks.problems(kind, config, base)


def make(settings: BackendSettings, sidecar: SidecarSettings, emitter_id: str) -> Backend:
    """The transport of a backend whose config block is valid, for the process that has this id; nothing is opened yet."""
    config = settings.config
    if not _is_built_in(settings.type, config):
        from monitoring_sdk import _sinks

        return _sinks.SinkBackend(settings)
    if settings.type == "filesystem":
        return FilesystemBackend(settings, emitter_id)
    if settings.type == "webhook":
        return _webhook.WebhookBackend(settings)
    return Plain(SidecarTransport(config.get("url", sidecar.url), config.get("token", sidecar.token)))


def _is_built_in(kind: str, config: Mapping[str, Any]) -> bool:
    if kind == "filesystem":
        return bool(config.get("format", "jsonl") == "jsonl") and not set(config) - FILESYSTEM_SETTINGS
    return _webhook.serves(config) if kind == "webhook" else kind == "sidecar"
