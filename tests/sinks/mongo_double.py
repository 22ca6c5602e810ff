"""A scripted server that speaks MongoDB's wire protocol: for accounts, elections and full disks, that the real one lacks."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import bson

Answer = Callable[[str, dict[str, Any]], dict[str, Any] | None]
"""From a command's name and its document to the answer; None for `ok`."""

_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_HELLO = {
    "ismaster": True, "helloOk": True, "maxBsonObjectSize": 16777216, "maxMessageSizeBytes": 48000000,
    "maxWriteBatchSize": 100000, "minWireVersion": 0, "maxWireVersion": 21, "readOnly": False, "ok": 1.0,
}  # fmt: skip


def failed(code: int, text: str, name: str = "Scripted") -> dict[str, Any]:
    """A command's failure."""
    return {"ok": 0.0, "code": code, "errmsg": text, "codeName": name}


@asynccontextmanager
async def mongo_double(answer: Answer, **hello: Any) -> AsyncIterator[int]:
    """The port of the server; `hello` changes what it says of itself."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                length, request, _, operation = struct.unpack("<iiii", await reader.readexactly(16))
                body = await reader.readexactly(length - 16)
                command = _query(body) if operation == _OP_QUERY else _message(body)
                name = next(iter(command))
                greeting = name.lower() in {"hello", "ismaster"}
                reply = {**_HELLO, **hello} if greeting else answer(name, command) or {"ok": 1.0, "n": 1}
                writer.write(_framed(operation, request, reply))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def _query(body: bytes) -> dict[str, Any]:
    start = body.index(b"\0", 4) + 1 + 8
    return bson.decode(body[start:])


def _message(body: bytes) -> dict[str, Any]:
    command: dict[str, Any] = {}
    place = 4
    while place < len(body):
        kind = body[place]
        (size,) = struct.unpack_from("<i", body, place + 1)
        section = body[place + 1 : place + 1 + size]
        if kind == 0:
            command = {**bson.decode(section), **command}
        else:
            end = section.index(b"\0", 4)
            command[section[4:end].decode()] = bson.decode_all(section[end + 1 :])
        place += 1 + size
    return command


def _framed(operation: int, request: int, reply: dict[str, Any]) -> bytes:
    document = bson.encode(reply)
    if operation == _OP_QUERY:
        body, code = struct.pack("<iqii", 8, 0, 0, 1) + document, _OP_REPLY
    else:
        body, code = struct.pack("<iB", 0, 0) + document, _OP_MSG
    return struct.pack("<iiii", 16 + len(body), 0, request, code) + body
