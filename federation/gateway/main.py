"""The gateway as a process: in the foreground, JSON lines on stderr, gone on SIGTERM after what is in progress."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
from pathlib import Path
from typing import Any, Final

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from contract.errors import TrackMateError
from federation.config import TrackMateConfig, load_config
from federation.gateway import logs
from federation.gateway.compose import make_app
from federation.gateway.settings import GatewaySettings

LOG = logging.getLogger(__name__)

SHUTDOWN_SECONDS: Final = 20.0
"""How long requests in progress may take to end after SIGTERM."""

HEADER_SECONDS: Final = 10
"""How long a caller may take to send a request's headers."""

GC_YOUNG_OBJECTS: Final = 50_000
"""New objects before the garbage collector looks at them: a batch makes thousands at once, which references alone free."""


class CannotListen(TrackMateError):
    """The address in gateway.listen can't be used."""


def serve(config_path: Path) -> None:
    """Run the gateway until SIGTERM or SIGINT. Raises ConfigError, TokenFileError and CannotListen."""
    logs.configure()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_OBJECTS, 20, 100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(load_config(config_path)))


async def run(config: TrackMateConfig) -> None:
    """Serve on the running event loop until a signal comes."""
    settings = config.gateway
    check_address(settings)
    server = Server(
        make_app(config),
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.auto,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1_000),
        backlog=1_024,
        websockets=False,
        log_enabled=False,
        ssl_cert=None if settings.tls is None else settings.tls.certificate,
        ssl_key=None if settings.tls is None else settings.tls.key,
    )
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, server.stop)
    LOG.info(
        "gateway starts",
        extra={"fields": {"listen": f"{settings.host}:{settings.port}", "tls": settings.tls is not None, "config": config.file}},
    )
    serving = asyncio.create_task(server.serve())
    interrupted: Any = server.main_loop_interrupt  # an asyncio.Event, though granian's base class has another
    stopped = asyncio.create_task(interrupted.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    try:
        await asyncio.wait_for(serving, SHUTDOWN_SECONDS)
    except TimeoutError:
        LOG.warning("requests were still in progress %.0f s after the signal; they were cut off", SHUTDOWN_SECONDS)
    LOG.info("gateway stopped")


def check_address(settings: GatewaySettings) -> None:
    """Raise CannotListen when the address can't be bound; granian itself would share a taken port with its holder."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            reason = "it is taken by another process" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
            message = (
                f"can't listen on {settings.host}:{settings.port} (gateway.listen): {reason}. "
                "Stop what uses it, or set another port in gateway.listen"
            )
            raise CannotListen(message) from error
