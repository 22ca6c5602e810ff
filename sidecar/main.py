"""Runs a sidecar in the foreground: one process, one event loop, until SIGTERM; SIGHUP takes new configuration."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import uvloop
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server

from contract.errors import ConfigError, Problem, TrackMateError
from sidecar import config, logs, tls
from sidecar.config import SidecarSettings
from sidecar.service import Sidecar

HEADER_TIMEOUT_MS: Final = 10_000
"""A sender has this long for its headers, and an idle connection stays open for as long."""

MAX_CONNECTIONS: Final = 1024
GC_YOUNG_OBJECTS: Final = 50_000
"""A decoded batch is hundreds of objects without cycles; looking for some after every few batches finds nothing."""

SWITCH_SECONDS: Final = 0.0005
"""A thread that makes rows of events, or anything else for a backend, lets an acknowledgement that waits go first this soon."""

SERVER_STOP_SECONDS: Final = 5.0
THREADS: Final = 64
"""At most; made when needed. Many, so that what hangs in one system's client library leaves some for the other backends."""

logger = logging.getLogger(__name__)


def serve(config_path: Path, *, overrides: Mapping[str, Any] | None = None) -> None:
    """Run the sidecar of this configuration until it is told to stop.

    Raises ConfigError, or TrackMateError when the port is taken or the spool can't be had.
    """
    early: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _: early.append(number))  # one that comes before the loop runs is kept for it
    settings = config.load(config_path, overrides=overrides)
    logs.configure()
    if settings.tls is not None and (problems := tls.problems(settings.tls)):
        raise ConfigError(settings.source, problems)
    _check_port(settings)
    gc.set_threshold(GC_YOUNG_OBJECTS, 20, 100)
    sys.setswitchinterval(SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, config_path, overrides, early))


def _check_port(settings: SidecarSettings) -> None:
    """The server shares its port on request (SO_REUSEPORT), so a port that another process has is found here."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "another process listens there: stop it, or choose another port",
            errno.EACCES: "this user may not listen there: choose a port above 1023",
            errno.EADDRNOTAVAIL: "this host has no such address",
        }.get(error.errno or 0, error.strerror or str(error))
        problem = Problem("sidecar.listen", f"can't listen on {settings.host}:{settings.port}: {reason}")
        raise ConfigError(settings.source, [problem]) from error


async def _serve(settings: SidecarSettings, config_path: Path, overrides: Mapping[str, Any] | None, early: Sequence[int]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="sidecar"))
    sidecar = Sidecar.open(settings)
    files = settings.tls
    server = Server(
        sidecar.app,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS),
        websockets=False,
        backlog=MAX_CONNECTIONS,
        backpressure=MAX_CONNECTIONS,
        log_enabled=False,
        ssl_cert=None if files is None else files.cert_file,
        ssl_key=None if files is None else files.key_file,
        ssl_protocol_min=SSLProtocols.tls12,
        ssl_ca=None if files is None else files.client_ca_file,
        ssl_client_verify=files is not None and files.client_ca_file is not None,
    )
    stop, reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    if early:
        reload.set()

    sidecar.start()
    serving = asyncio.create_task(server.serve(), name="http")
    reloading = asyncio.create_task(_reload_when_told(sidecar, config_path, overrides, reload), name="reload")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    logger.info(
        "listening",
        extra={
            "address": f"{settings.host}:{settings.port}",
            "tls": files is not None,
            "spool": str(settings.spool.dir),
            "backends": [b.name for b in settings.backends],
        },
    )
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    logger.info("stopping", extra={"grace_seconds": sidecar.settings.shutdown_grace})
    reloading.cancel()
    stopping.cancel()
    await asyncio.gather(reloading, stopping, return_exceptions=True)
    sidecar.app.ready = False
    server.stop()  # type: ignore[no-untyped-call]
    _, late = await asyncio.wait([serving], timeout=SERVER_STOP_SECONDS)
    for task in late:
        task.cancel()
    await sidecar.stop()
    failure = serving.exception() if serving.done() and not serving.cancelled() else None
    if failure is not None:
        message = f"the HTTP server ended: {failure}"
        raise TrackMateError(message) from failure


async def _reload_when_told(
    sidecar: Sidecar, config_path: Path, overrides: Mapping[str, Any] | None, told: asyncio.Event
) -> None:
    while True:
        await told.wait()
        told.clear()
        try:
            settings = await asyncio.to_thread(config.load, config_path, overrides=overrides)
            await sidecar.reload(settings)
        except TrackMateError as error:
            problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [str(error)]
            logger.error(  # noqa: TRY400 - the problems say it all
                "the new configuration is wrong; the old one stays in force",
                extra={"file": str(config_path), "problems": problems},
            )
        except Exception:
            logger.exception("the new configuration could not be taken", extra={"file": str(config_path)})
        else:
            logger.info("took the new configuration", extra={"backends": [backend.name for backend in settings.backends]})
