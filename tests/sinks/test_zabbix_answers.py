"""What a Zabbix server can't be made to answer, how many requests a batch takes, and moments, keys and settings by themselves."""

from __future__ import annotations

import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ConfigError
from sinks import registry, zabbix
from sinks.base import Unavailable
from sinks.zabbix import MAX_CLOCK, ZabbixConfig, ZabbixSink
from sinks.zabbix_items import LOGS, MAX_KEY_CHARS, METRIC, Item, key_of, printable
from sinks.zabbix_moments import Moments
from sinks.zabbix_trapper import MAX_VALUES
from tests.services.base import free_port
from tests.sidecar.harness import event
from tests.sinks.documented import documented_backend
from tests.sinks.suite import batch_of

Answer = bytes | Callable[[list[dict[str, Any]]], bytes]


def packet(body: bytes, flags: int = 1) -> bytes:
    return struct.pack("<4sBII", b"ZBXD", flags, len(body), 0) + body


def counts(processed: int, failed: int, total: int | None = None) -> bytes:
    total = processed + failed if total is None else total
    info = f"processed: {processed}; failed: {failed}; total: {total}; seconds spent: 0.000042"
    return packet(json.dumps({"response": "success", "info": info}).encode())


class TrapperDouble:
    """Takes values as Zabbix does and answers what the test says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[list[dict[str, Any]]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                _, flags, length, _ = struct.unpack("<4sBII", stream.read(13))
                body = stream.read(length)
                values = json.loads(zlib.decompress(body) if flags & 2 else body)["data"]
                self.requests.append(values)
                stream.write(self.answer if isinstance(self.answer, bytes) else self.answer(values))


@pytest.fixture
def doubles() -> Iterator[Callable[[Answer], TrapperDouble]]:
    made: list[TrapperDouble] = []

    def make(answer: Answer) -> TrapperDouble:
        made.append(TrapperDouble(answer))
        return made[-1]

    yield make
    for each in made:
        each.close()


Doubles = Callable[[Answer], TrapperDouble]


def all_taken(values: list[dict[str, Any]]) -> bytes:
    return counts(len(values), 0)


async def opened(port: int, clock: Callable[[], float] = lambda: 1782900000.0, **settings: Any) -> ZabbixSink:
    sink = ZabbixSink("zabbix", ZabbixConfig(url=f"http://127.0.0.1:{port}", host="fab", **settings), clock=clock)
    await sink.open()
    return sink


def metrics(count: int, **fields: Any) -> dict[str, Any]:
    return event(kind="metric", metrics={f"m{number}": number for number in range(count)}, **fields)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer like Zabbix"),
        (b"ZBXD", "cut in the middle"),
        (b"", "cut in the middle"),
        (packet(b"{not json"), "does not answer like Zabbix"),
        (packet(b'["a list"]'), "does not answer like Zabbix"),
        (packet(b"\xff\xfe"), "does not answer like Zabbix"),
        (packet(b"not zlib", flags=3), "does not answer like Zabbix"),
        (packet(b"{}", flags=5), "does not answer like Zabbix"),
        (packet(b'{"response":"success"}'), "without counts"),
        (packet(b'{"response":"success","info":"all fine"}'), "without counts"),
        (packet(b'{"response":"failed","info":"standby node"}'), "standby node.*active"),
        (counts(0, 0), "doesn't add up"),
        (counts(2, 0), "doesn't add up"),
    ],
    ids=[
        "http",
        "half a header",
        "nothing",
        "not json",
        "a list",
        "not text",
        "not compressed",
        "too large",
        "no counts",
        "no numbers",
        "standby",
        "none",
        "too many",
    ],
)
async def test_wrong_answer_passes_for_a_delivery(doubles: Doubles, answer: bytes, expected: str) -> None:
    server = doubles(answer)
    sink = await opened(server.port)
    with pytest.raises(Unavailable, match=expected) as error:
        await sink.deliver(batch_of([metrics(1)]))
    assert f"127.0.0.1:{server.port}" in str(error.value)
    assert not (await sink.check()).ok
    await sink.close()


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", "connection is refused"), ("no-such-host.invalid", "can't be resolved")]
)
async def test_address_where_nothing_listens_is_not_told_from_a_wrong_name(host: str, expected: str) -> None:
    sink = ZabbixSink("zabbix", ZabbixConfig(url=f"http://{host}:{free_port()}", host="fab"))
    await sink.open()
    with pytest.raises(Unavailable, match=expected):
        await sink.deliver(batch_of([metrics(1)]))
    await sink.close()


@pytest.mark.parametrize("read_timeout", [0.1])
async def test_server_that_never_answers_is_waited_for(doubles: Doubles, read_timeout: float) -> None:
    awake = threading.Event()

    def never(values: list[dict[str, Any]]) -> bytes:
        awake.wait(30)
        return b""

    server = doubles(never)
    sink = await opened(server.port, read_timeout=read_timeout)
    with pytest.raises(Unavailable, match="did not answer in time"):
        await sink.deliver(batch_of([metrics(1)]))
    awake.set()
    await sink.close()


@pytest.mark.parametrize(
    ("values", "requests"),
    [(MAX_VALUES - 1, [249]), (MAX_VALUES, [250]), (MAX_VALUES + 1, [250, 1]), (3 * MAX_VALUES, [250] * 3)],
)
async def test_request_holds_too_many_values(doubles: Doubles, values: int, requests: list[int]) -> None:
    server = doubles(all_taken)
    sink = await opened(server.port)
    report = await sink.deliver(batch_of([metrics(values)]))
    await sink.close()
    assert report.delivered == 1
    assert [len(each) for each in server.requests if "discovery" not in each[0]["key"]] == requests


async def test_one_bad_item_costs_a_request_for_each_value(doubles: Doubles) -> None:
    def one_bad(values: list[dict[str, Any]]) -> bytes:
        bad = sum(",m77," in value["key"] for value in values)
        return counts(len(values) - bad, bad)

    server = doubles(one_bad)
    sink = await opened(server.port, item_wait=0)
    events = [event(kind="metric", metrics={f"m{number}": 1}) for number in range(250)]
    report = await sink.deliver(batch_of(events))
    assert ([refused.index for refused in report.refused], report.delivered) == ([77], 249)
    assert len(server.requests) < 30
    server.requests.clear()
    again = await sink.deliver(batch_of([{**item, "timestamp": "2026-07-01T09:00:01Z"} for item in events]))
    await sink.close()
    assert [refused.index for refused in again.refused] == [77]
    assert [len(values) for values in server.requests] == [249, 1], "what is known to work is not sent with what is not"


async def test_new_item_is_refused_before_the_server_can_know_it(doubles: Doubles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zabbix, "PICK_UP_SECONDS", 0.0)
    known = False

    def later(values: list[dict[str, Any]]) -> bytes:
        taken = sum(known or "metric[" not in value["key"] or "discovery" in value["key"] for value in values)
        return counts(taken, len(values) - taken)

    server = doubles(later)
    sink = await opened(server.port)
    events = [metrics(1), event()]
    report = await sink.deliver(batch_of(events))
    assert (report.delivered, report.refused, report.retry) == (1, [], [0])
    assert report.retry_after
    assert "CacheUpdateFrequency" in str(report.message)
    known = True
    report = await sink.deliver(batch_of(events).subset([0]))
    await sink.close()
    assert (report.delivered, report.retry) == (1, [])


@pytest.mark.parametrize(
    ("timestamp", "refused"), [("2038-01-19T03:14:06.999999Z", 0), ("2038-01-19T03:14:07Z", 1), ("2099-01-01T00:00:00Z", 1)]
)
async def test_moment_beyond_the_clock_reaches_zabbix(doubles: Doubles, timestamp: str, refused: int) -> None:
    server = doubles(all_taken)
    sink = await opened(server.port)
    report = await sink.deliver(batch_of([metrics(1, timestamp=timestamp)]))
    await sink.close()
    assert len(report.refused) == refused
    sent = [value for values in server.requests for value in values if "metric[" in value["key"]]
    assert all(value["clock"] < MAX_CLOCK and 0 <= value["ns"] < 10**9 for value in sent)


@pytest.mark.parametrize(("extra", "refused"), [(-1, 0), (0, 0), (1, 1)])
async def test_key_too_long_reaches_zabbix(doubles: Doubles, extra: int, refused: int) -> None:
    control = "\x01"  # three characters in a key
    fixed = {"site_id": "s", "app": {"name": control * 256}, "name": control * 256}
    frame = len(key_of(METRIC.prefix, ("s", control * 256, control * 256, "", "")))
    rest = MAX_KEY_CHARS + extra - frame
    metric, tool = control * (rest // 6), "t" * (rest - 3 * (rest // 6))
    if len(tool) > 256:
        metric, tool = metric + control * ((len(tool) - 256 + 2) // 3), tool[: 256 - (3 - (len(tool) - 256) % 3) % 3]
    key = key_of(METRIC.prefix, ("s", control * 256, control * 256, metric, tool))
    assert len(key) == MAX_KEY_CHARS + extra
    server = doubles(all_taken)
    sink = await opened(server.port)
    report = await sink.deliver(batch_of([event(kind="metric", metrics={metric: 1}, entities={"tool": tool}, **fixed)]))
    await sink.close()
    assert len(report.refused) == refused
    assert any(len(value["key"]) == len(key) for values in server.requests for value in values) is not bool(refused)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=6), st.text(max_size=6)), min_size=2, max_size=12, unique=True))
def test_two_names_share_a_key(pairs: list[tuple[str, str]]) -> None:
    keys = [Item(LOGS, pair).key for pair in pairs]
    assert len(set(keys)) == len(set(pairs))
    assert all(printable(part).isprintable() or not part.isascii() for pair in pairs for part in pair)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(0, 3)), max_size=80), st.integers(1, 60))
def test_two_events_have_one_moment_or_one_event_two(asked: list[tuple[str, int, int]], remembered: int) -> None:
    moments = Moments(remembered=1000)
    given: dict[tuple[str, str], int] = {}
    for key, number, wanted in asked:
        name = (key, f"event {number}")
        moment = moments.give(key, name[1], given.get(name, wanted))
        assert given.setdefault(name, moment) == moment
    for key in "ab":
        of_key = [moment for (where, _), moment in given.items() if where == key]
        assert len(set(of_key)) == len(of_key)
    small = Moments(remembered=remembered)
    for number in range(500):
        small.give("a", f"event {number}", number)
    assert len(small._given) + len(small._old_given) <= 2 * remembered


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://zabbix:10051", ("zabbix", 10051)),
        ("zabbix.fab1", ("zabbix.fab1", 10051)),
        ("tcp://10.0.0.1:1234/", ("10.0.0.1", 1234)),
        ("http://[::1]:10052", ("::1", 10052)),
    ],
)
def test_address_is_read_differently(url: str, address: tuple[str, int]) -> None:
    assert ZabbixConfig(url=url, host="fab").address == address


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "http://"}, "is no address"),
        ({"url": "http://zabbix:99999"}, "is no address"),
        ({"api_url": "http://zabbix/api_jsonrpc.php", "api_key": ""}, "needs api_key"),
        ({"host": ""}, "host"),
        ({"history_days": 9126}, "history_days"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_wrong_setting_is_found_at_the_first_event(change: dict[str, Any], message: str) -> None:
    config = {"url": "http://zabbix:10051", "host": "wafer-monitor", **change}
    with pytest.raises(ConfigError, match=message):
        registry.make_sink("zabbix", "zabbix", config)


def test_published_block_does_not_work() -> None:
    config = {"url": "http://zabbix:10051", "host": "wafer-monitor", "api_key": "the-key"}
    sink = registry.make_sink("zabbix", "zabbix", config)
    assert "the-key" not in repr(sink.__dict__)
    assert "the-key" not in str(msgspec.structs.asdict(sink.__dict__["_config"]))


def test_documented_block_does_not_work() -> None:
    registry.make_sink("zabbix", "zabbix", documented_backend("zabbix"))
