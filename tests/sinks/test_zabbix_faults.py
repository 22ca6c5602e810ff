"""The Zabbix sink on a real server that is set up wrongly, or that goes away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from zabbix_utils import ItemValue

from contract.settings import Secret
from sinks.base import Unavailable
from sinks.tls import Tls
from sinks.zabbix import ZabbixConfig, ZabbixSink
from tests.services.base import free_port, wait_until
from tests.services.certificates import TestAuthority
from tests.services.toxiproxy import Toxiproxy
from tests.services.zabbix import Zabbix
from tests.sinks.suite import batch_of
from tests.sinks.zabbix_target import (
    NOW,
    ZabbixTarget,
    config_of,
    deliver,
    host_with_template,
    metric,
    recent,
    stored,
    template_sink,
)  # fmt: skip


@pytest.fixture
def target(zabbix: Zabbix, toxiproxy: Toxiproxy) -> Iterator[ZabbixTarget]:
    link = toxiproxy.link(zabbix.fresh_name().replace(" ", "-"), zabbix.port)
    yield ZabbixTarget(zabbix, link)
    link.cut()


async def test_unknown_host_is_not_named(zabbix: Zabbix) -> None:
    sink = template_sink(zabbix, "no such host")
    await sink.open()
    assert "no such host" in (await sink.check()).detail
    with pytest.raises(Unavailable, match=r"no such host.*template"):
        await sink.deliver(batch_of([metric(1)]))
    await sink.close()


async def test_disabled_host_is_not_named(zabbix: Zabbix, target: ZabbixTarget) -> None:
    zabbix.make_host(target.host, status=1)
    sink = target.sink()
    await sink.open()
    assert "disabled" in (await sink.check()).detail
    with pytest.raises(Unavailable, match="disabled"):
        await sink.deliver(batch_of([metric(1)]))
    zabbix.call("host.update", {"hostid": zabbix.host_id(target.host), "status": 0})
    assert (await deliver(sink, [metric(1)])).delivered == 1
    await sink.close()
    assert list(stored(zabbix, target.host).values()) == [["1"]]


async def test_item_of_another_type_swallows_values(zabbix: Zabbix, target: ZabbixTarget) -> None:
    """Zabbix says "processed" for a text that it can't put into a number: only the API tells beforehand."""
    zabbix.make_host(target.host)
    zabbix.make_item(target.host, "trackmate.state[fab1,wafer-processing,etch,]", 3)
    zabbix.make_item(target.host, "trackmate.metric[fab1,wafer-processing,etch,depth,]", 0, type=7, delay="1h")
    sink = target.sink()
    await sink.open()
    report = await deliver(sink, [recent(kind="state", state={"to": "productive"}), metric(1), recent()])
    await sink.close()
    assert [refused.index for refused in report.refused] == [0, 1]
    assert "another type of information" in report.refused[0].reason
    assert "not of the type Zabbix trapper" in report.refused[1].reason
    assert list(stored(zabbix, target.host)) == ["trackmate.log[fab1,wafer-processing]"]


async def test_deleted_item_is_not_made_again(zabbix: Zabbix, target: ZabbixTarget) -> None:
    sink = target.sink()
    await sink.open()
    assert (await deliver(sink, [metric(1)])).delivered == 1
    (item,) = zabbix.items(target.host)
    zabbix.call("item.delete", [item["itemid"]])
    gone = [ItemValue(target.host, item["key_"], "0", NOW, 1)]
    wait_until(lambda: zabbix.send(gone) == (0, 1), seconds=30, what="the server to forget the item")
    assert (await deliver(sink, [metric(2, 30)])).delivered == 1
    await sink.close()
    assert list(stored(zabbix, target.host).values()) == [["2"]]


async def test_item_switched_off_takes_the_others_of_its_batch_with_it(zabbix: Zabbix) -> None:
    """Without the API: found by halving, refused after a while, and never in the way of the others."""
    host = host_with_template(zabbix)
    names = [f"m{number}" for number in range(40)]
    first = template_sink(zabbix, host)
    await first.open()
    assert (await deliver(first, [metric(1, metrics={name: 1}) for name in names])).delivered == 40
    await first.close()
    sink = template_sink(zabbix, host, item_wait=0.5)
    await sink.open()
    zabbix.flush()  # what is taken and not stored is lost when its item is switched off
    victim = next(item for item in zabbix.items(host) if ",m17," in item["key_"])
    zabbix.call("item.update", {"itemid": victim["itemid"], "status": 1})
    off = [ItemValue(host, victim["key_"], "0", NOW, 1)]
    wait_until(lambda: zabbix.send(off) == (0, 1), seconds=30, what="the server to switch the item off")
    report = await deliver(sink, [metric(2, 30, metrics={name: 2}) for name in names])
    again = await deliver(sink, [metric(3, 20, metrics={name: 3}) for name in names])
    zabbix.call("item.update", {"itemid": victim["itemid"], "status": 0})
    wait_until(lambda: zabbix.send(off) == (1, 0), seconds=30, what="the server to switch the item on")
    healed = await deliver(sink, [metric(4, 10, metrics={name: 4}) for name in names])
    await sink.close()
    for each in (report, again):
        assert (each.delivered, each.retry, [refused.index for refused in each.refused]) == (39, [], [17])
        assert "m17" in each.refused[0].reason
    assert (healed.delivered, healed.refused) == (40, [])
    found = stored(zabbix, host)
    assert found.pop(victim["key_"]) == ["1", "4", "0"]
    assert all(values == ["1", "2", "3", "4"] for values in found.values())


@pytest.mark.parametrize("what", ["page", "nothing", "password"])
async def test_wrong_api_is_not_told_from_a_wrong_credential(zabbix: Zabbix, target: ZabbixTarget, what: str) -> None:
    config = config_of(target)
    match what:
        case "page":
            config["api_url"], expected = zabbix.web_url + "/index.php", "not like the Zabbix API"
        case "nothing":
            config["api_url"], expected = f"http://127.0.0.1:{free_port()}/api_jsonrpc.php", "refused"
        case _:
            config |= {"api_key": Secret(""), "username": "Admin", "password": Secret("quite wrong")}
            expected = "username and password"
    sink = ZabbixSink("zabbix", ZabbixConfig(**config))
    await sink.open()
    assert expected in (await sink.check()).detail
    with pytest.raises(Unavailable, match=expected) as error:
        await sink.deliver(batch_of([metric(1)]))
    assert "quite wrong" not in str(error.value)
    await sink.close()


async def test_password_does_not_do(zabbix: Zabbix, target: ZabbixTarget) -> None:
    config = {**config_of(target), "api_key": Secret(""), "username": "Admin", "password": Secret("zabbix")}
    sink = ZabbixSink("zabbix", ZabbixConfig(**config))
    await sink.open()
    assert (await sink.check()).ok
    assert (await deliver(sink, [metric(1)])).delivered == 1
    await sink.close()
    assert list(stored(zabbix, target.host).values()) == [["1"]]


async def test_user_without_rights_is_not_told_so(zabbix: Zabbix, target: ZabbixTarget) -> None:
    guest = zabbix.call("usergroup.create", {"name": target.host})["usrgrpids"][0]
    (role,) = [r for r in zabbix.call("role.get", {"output": ["roleid", "name"]}) if r["name"] == "User role"]
    user = {"username": target.host, "passwd": "Much-too-long-1", "usrgrps": [{"usrgrpid": guest}], "roleid": role["roleid"]}
    zabbix.call("user.create", user)
    config = {**config_of(target), "api_key": Secret(""), "username": target.host, "password": Secret("Much-too-long-1")}
    sink = ZabbixSink("zabbix", ZabbixConfig(**config))
    await sink.open()
    with pytest.raises(Unavailable, match=r"may not do that|No permissions"):
        await sink.deliver(batch_of([metric(1)]))
    await sink.close()


async def test_api_that_is_down_stops_values_of_known_items(zabbix: Zabbix, toxiproxy: Toxiproxy, target: ZabbixTarget) -> None:
    api = toxiproxy.link(f"api-{target.link.name}", zabbix.web_port)
    sink = ZabbixSink("zabbix", ZabbixConfig(**{**config_of(target), "api_url": f"http://127.0.0.1:{api.port}/api_jsonrpc.php"}))
    await sink.open()
    assert (await deliver(sink, [metric(1)])).delivered == 1
    api.cut()
    assert (await deliver(sink, [metric(2, 30)])).delivered == 1
    with pytest.raises(Unavailable, match="refused"):
        await sink.deliver(batch_of([metric(3, 20, metrics={"new": 1})]))
    api.heal()
    assert (await deliver(sink, [metric(3, 20, metrics={"new": 1})])).delivered == 1
    await sink.close()
    assert sorted(stored(zabbix, target.host).values()) == [["1"], ["1", "2"]]


async def test_answer_cut_off_leaves_two(zabbix: Zabbix, target: ZabbixTarget) -> None:
    sink = target.sink()
    await sink.open()
    assert (await deliver(sink, [metric(1)])).delivered == 1
    again = metric(2, 30)
    target.link.poison("limit_data", bytes=20)
    with pytest.raises(Unavailable, match="cut in the middle"):
        await sink.deliver(batch_of([again]))
    target.link.heal()
    assert (await deliver(sink, [again])).delivered == 1
    await sink.close()
    assert list(stored(zabbix, target.host).values()) == [["1", "2"]]


async def test_slow_system_loses_values(zabbix: Zabbix, target: ZabbixTarget) -> None:
    sink = target.sink()
    await sink.open()
    target.link.poison("latency", latency=300, jitter=100)
    assert (await deliver(sink, [metric(n, 60 - n) for n in range(5)])).delivered == 5
    await sink.close()
    assert list(stored(zabbix, target.host).values()) == [["0", "1", "2", "3", "4"]]


async def test_certificate_is_not_shown_or_not_checked(zabbix: Zabbix, tmp_path: Path) -> None:
    """The host takes values over TLS with a certificate only."""
    host = host_with_template(zabbix)
    zabbix.call("host.update", {"hostid": zabbix.host_id(host), "tls_accept": 4})
    check = [ItemValue(host, "trackmate.check", "1")]
    wait_until(lambda: zabbix.send(check) == (0, 1), seconds=30, what="the host to refuse plain connections")
    mine = zabbix.client_certificate
    right = Tls(ca_file=zabbix.ca_file, cert_file=mine.cert_file, key_file=mine.key_file)
    stranger = TestAuthority(tmp_path, "a stranger")
    foreign = stranger.issue("agent")
    wrong = {
        "not trusted": Tls(ca_file=stranger.file, cert_file=mine.cert_file, key_file=mine.key_file),
        "can't be reached": Tls(ca_file=zabbix.ca_file, cert_file=foreign.cert_file, key_file=foreign.key_file),
    }
    for expected, tls in wrong.items():
        sink = template_sink(zabbix, host, tls_connect="cert", tls=tls)
        await sink.open()
        with pytest.raises(Unavailable, match=expected):
            await sink.deliver(batch_of([metric(1)]))
        await sink.close()
    plain = template_sink(zabbix, host)
    await plain.open()
    with pytest.raises(Unavailable, match="takes nothing"):
        await plain.deliver(batch_of([metric(1)]))
    await plain.close()
    sink = template_sink(zabbix, host, tls_connect="cert", tls=right)
    await sink.open()
    assert (await deliver(sink, [metric(2)])).delivered == 1
    await sink.close()
    assert list(stored(zabbix, host).values()) == [["2"]]
