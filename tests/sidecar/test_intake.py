"""Bounds on what is held at once, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from contract.limits import MAX_BODY_BYTES
from sidecar.answers import Refusal
from sidecar.intake import CHUNK_RESERVE, ByteBudget, Disconnected, Intake, RequestHead
from sidecar.metrics import Metrics
from sidecar.spool.errors import SpoolBusy, SpoolShed, SpoolUnavailable
from sidecar.spool.format import Flags, ShedClass
from tests.sidecar.harness import event, ndjson

NDJSON = "application/x-ndjson"


class Spool:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.appended: list[tuple[bytes, int, Flags]] = []
        self.checked: list[ShedClass] = []

    def check(self, size: int = 0, shed: ShedClass = ShedClass.NORMAL) -> None:
        self.checked.append(shed)

    async def append(self, payload: bytes, count: int, flags: Flags = Flags()) -> int:  # noqa: B008 - as the log has it
        if self.error is not None:
            raise self.error
        self.appended.append((payload, count, flags))
        return 1


class Quarantine:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.kept: list[Any] = []

    async def keep(self, rejected: Any, source: str) -> None:
        if self.error is not None:
            raise self.error
        self.kept += rejected


class Body:
    """An ASGI `receive` that gives these pieces."""

    def __init__(self, *pieces: bytes, cut: bool = False) -> None:
        self.messages: list[dict[str, Any]] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        self.messages.append({"type": "http.disconnect"} if cut else {"type": "http.request", "body": b"", "more_body": False})

    async def __call__(self) -> dict[str, Any]:
        return self.messages.pop(0)


def intake(spool: Spool, quarantine: Quarantine | None = None, **options: Any) -> Intake:
    settings = {"body_timeout": 5.0, "max_bytes_in_flight": 1024 * 1024, **options}
    return Intake(spool, quarantine or Quarantine(), Metrics(), **settings)  # type: ignore[arg-type]


def head(length: int | None, **fields: Any) -> RequestHead:
    return RequestHead(length=length, content_type=NDJSON, **fields)


async def test_budget_is_not_given_back_after_a_failure() -> None:
    good = ndjson([event()])
    for spool, quarantine, body, expected in (
        (Spool(), Quarantine(), Body(good), None),
        (Spool(SpoolUnavailable("the disk is full")), Quarantine(), Body(good), Refusal),
        (Spool(RuntimeError("unthought of")), Quarantine(), Body(good), RuntimeError),
        (Spool(), Quarantine(SpoolUnavailable("full")), Body(b"{}\n" + good), Refusal),
        (Spool(), Quarantine(), Body(good[:20], cut=True), Disconnected),
        (Spool(), Quarantine(), Body(*[b" " * MAX_BODY_BYTES, b"x"]), Refusal),
    ):
        tested = intake(spool, quarantine, max_bytes_in_flight=64 * 1024 * 1024)
        if expected is None:
            await tested.take(head(None), body)
        else:
            with pytest.raises(expected):
                await tested.take(head(None), body)
        assert tested.budget.used == 0
        tested.close()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SpoolBusy(2.0, "above the mark"), 429, "spool_busy"),
        (SpoolShed(2.0, "debug goes first"), 429, "spool_busy"),
        (SpoolUnavailable("the disk is full"), 503, "spool_unavailable"),
    ],
)
async def test_spool_that_can_not_take_more_is_a_server_error(error: Exception, status: int, code: str) -> None:
    tested = intake(Spool(error))
    with pytest.raises(Refusal) as refusal:
        await tested.take(head(None), Body(ndjson([event()])))
    tested.close()
    assert (refusal.value.status, refusal.value.code) == (status, code)
    assert refusal.value.retry_after is not None


async def test_rejected_events_are_answered_before_they_are_kept() -> None:
    spool, quarantine = Spool(), Quarantine(SpoolUnavailable("the disk is full"))
    tested = intake(spool, quarantine)
    with pytest.raises(Refusal) as refusal:
        await tested.take(head(None), Body(b'{"kind": "log"}\n' + ndjson([event()])))
    tested.close()
    assert refusal.value.status == 503


def test_budget_lets_more_in_than_it_has() -> None:
    budget = ByteBudget(100)
    budget.take(500)  # alone, whatever its size: it could never come in otherwise
    with pytest.raises(Refusal) as refusal:
        budget.take(1)
    assert refusal.value.status == 429
    budget.give_back(500)
    budget.take(60)
    budget.take(40)
    with pytest.raises(Refusal):
        budget.take(1)


async def test_announced_length_is_reserved_before_it_comes() -> None:
    tested = intake(Spool())
    seen: list[int] = []
    body = ndjson([event()])

    async def receive() -> dict[str, Any]:
        seen.append(tested.budget.used)
        return {"type": "http.request", "body": body, "more_body": True}

    answer = await tested.take(head(len(body)), receive)
    tested.close()
    assert (answer.status, seen) == (202, [0])
    assert CHUNK_RESERVE < MAX_BODY_BYTES


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([event(severity="debug"), event(severity="debug")], ShedClass.DEBUG),
        ([event(severity="debug"), event()], ShedClass.NORMAL),
        ([event(kind="finish", status="ok"), event(kind="error")], ShedClass.VITAL),
        ([event(kind="finish", status="ok"), event(severity="debug")], ShedClass.NORMAL),
    ],
)
async def test_finish_is_shed_like_debug(events: list[dict[str, Any]], expected: ShedClass) -> None:
    for shed, wanted in ((True, expected), (False, ShedClass.NORMAL)):
        spool = Spool()
        tested = intake(spool, shed=shed)
        await tested.take(head(None), Body(ndjson(events)))
        tested.close()
        assert [flags.shed for _, _, flags in spool.appended] == [wanted]
        assert spool.checked == [ShedClass.VITAL if shed else ShedClass.NORMAL]
