"""Puts one gateway together from trackmate.yaml."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.types import ASGIApp

from federation.adapters import registry
from federation.adapters.managed import WriteClock
from federation.auth import ConfiguredTokens, TokenSource, TokenStore
from federation.config import TrackMateConfig, load_config
from federation.engines.base import Limits
from federation.engines.duckdb_engine import DuckDBEngine
from federation.gateway import hot_writer
from federation.gateway.app import create_app
from federation.gateway.metrics import Metrics
from federation.gateway.services import Services
from federation.token_file import TokenFile, TokenRecord
from federation.trace import Tracer
from federation.unified import Unified
from lakehouse.config import HotConfig
from lakehouse.hot import reader

LOG = logging.getLogger(__name__)


def make_services(config: TrackMateConfig, writes: WriteClock) -> Services:
    """Every part of the gateway, nothing connected yet. Raises ConfigError and TokenFileError."""
    settings = config.gateway
    metrics = Metrics()
    adapters = registry.make_all(config, writes)
    engine = DuckDBEngine.open(config)
    caps = config.engines.duckdb
    tokens = TokenStore(token_sources(config))
    tokens.load()
    if not tokens.required:
        LOG.warning(
            "no token is configured: only requests from this machine, under a local name, are served",
            extra={"fields": {"hint": "trackmate token new --scope ingest --scope query"}},
        )
    return Services(
        settings=settings,
        tokens=tokens,
        metrics=metrics,
        adapters=adapters,
        unified=Unified(
            adapters, settings.source_timeout, observe=lambda name, seconds, failed: metrics.source(name, seconds, failed=failed)
        ),
        engine=engine,
        sql_limits=Limits(caps.timeout, caps.max_rows, caps.max_bytes),
        tracer=Tracer(partial(_find_hot, config.hot), engine),
        catalog=engine.catalog,
    )


def make_app(config: TrackMateConfig) -> ASGIApp:
    """The gateway as an ASGI application; its lifespan opens and closes what it needs."""
    writes = WriteClock()
    services = make_services(config, writes)

    @asynccontextmanager
    async def running(_services: Services) -> AsyncIterator[None]:
        try:
            async with hot_writer.kept_open(services, config.hot, writes):
                yield
        finally:
            await services.engine.close()
            for adapter in services.adapters:
                await adapter.close()

    return create_app(services, running)


def token_sources(config: TrackMateConfig) -> list[TokenSource]:
    """The tokens file, and trackmate.yaml itself when the configuration came from one."""
    sources: list[TokenSource] = [TokenFile(config.gateway.tokens_file)]
    if config.file is not None:
        file = config.file

        def reread() -> Sequence[TokenRecord]:
            return load_config(file).tokens

        sources.append(ConfiguredTokens(file, reread))
    elif config.tokens:
        sources.append(ConfiguredTokens(config.gateway.tokens_file.with_name("trackmate.yaml"), lambda: config.tokens))
    return sources


async def _find_hot(config: HotConfig, event_id: str) -> list[dict[str, Any]]:
    table = await asyncio.to_thread(reader.find, config.dsn, event_id)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
