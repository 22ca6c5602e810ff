"""Zabbix server, frontend and API from Debian, on a PostgreSQL of their own; a new item takes values after a second."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import pwd
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import requests
import yaml
from pyzabbix import ZabbixAPI
from zabbix_utils import ItemValue, Sender

from tests.services.apt import ensure_packages
from tests.services.base import Service, free_port, port_open, wait_until
from tests.services.certificates import TestAuthority
from tests.services.postgres import Postgres15

_PACKAGES = (
    "zabbix-server-pgsql", "zabbix-frontend-php", "zabbix-agent", "php-cgi", "php-cli", "php-pgsql", "locales", "postgresql-15",
)  # fmt: skip
_SQL = Path("/usr/share/zabbix-server-pgsql")
_FRONTEND = Path("/usr/share/zabbix")
_CONFIG_CLASS = Path("include/classes/core/CConfigFile.php")
_USER = "zabbix"
_DATABASE = "zabbix"
_FLUSH = "flush"


def _low_port() -> int:
    """A free loopback port below 32768, above which the server takes none."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20000, 32768)))
            port: int = probe.getsockname()[1]
            return port


class _Api(ZabbixAPI):
    """A session that stays in the process that made it."""

    def __reduce__(self) -> Any:
        message = "a session can't go to another process"
        raise TypeError(message)


class ZabbixWeb(Service):
    """The frontend and its API: a private copy under PHP's own web server."""

    name = "zabbix-web"

    def __init__(self, postgres_port: int, server_port: int) -> None:
        super().__init__()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._postgres_port = postgres_port
        self._server_port = server_port

    def start(self) -> Self:
        root = self.folder / "www"
        # The files that Debian links to lie elsewhere and may be shared: copied too, so that the copy stands alone.
        shutil.copytree(_FRONTEND, root, symlinks=False, ignore_dangling_symlinks=True)
        config = self.folder / "zabbix.conf.php"
        config.write_text(
            "<?php\n"
            "$DB['TYPE'] = 'POSTGRESQL'; $DB['SERVER'] = '127.0.0.1'; $DB['DATABASE'] = '" + _DATABASE + "';\n"
            f"$DB['PORT'] = '{self._postgres_port}'; $DB['USER'] = 'tests'; $DB['PASSWORD'] = ''; $DB['SCHEMA'] = '';\n"
            "$DB['ENCRYPTION'] = false; $DB['DOUBLE_IEEE754'] = true;\n"
            f"$ZBX_SERVER = '127.0.0.1'; $ZBX_SERVER_PORT = '{self._server_port}'; $ZBX_SERVER_NAME = 'tests';\n"
            "$IMAGE_FORMAT_DEFAULT = IMAGE_FORMAT_PNG;\n"
        )
        source = (root / _CONFIG_CLASS).read_text()
        (root / _CONFIG_CLASS).write_text(source.replace("/etc/zabbix/zabbix.conf.php", str(config)))
        settings = {"date.timezone": "UTC", "max_execution_time": "300", "max_input_time": "300", "post_max_size": "32M"}
        options = [part for name, value in settings.items() for part in ("-d", f"{name}={value}")]
        self.spawn(
            ["php", *options, "-S", f"127.0.0.1:{self.port}", "-t", root],
            ready=lambda: port_open(self.port),
            env={"PHP_CLI_SERVER_WORKERS": "2"},
        )
        return self


class Zabbix(Service):
    """Zabbix 6.0: `port` takes values, with or without TLS, `api_url` answers the API; its administrator is Admin, `zabbix`."""

    name = "zabbix"
    start_seconds = 120

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self.port = _low_port()
        self.postgres = Postgres15()
        self.web = ZabbixWeb(self.postgres.port, self.port)
        self.web_url = self.web.url
        self.web_port = self.web.port
        self.api_url = f"{self.web_url}/api_jsonrpc.php"
        authority = TestAuthority(self.folder)
        self.ca_file = authority.file
        self.client_certificate = authority.issue("agent")
        self._certificate = authority.issue("127.0.0.1", "localhost")
        self._settings = settings
        self._numbers = itertools.count(1)
        self._flushed = 0
        self._connect()

    def start(self) -> Self:
        ensure_packages(*_PACKAGES)
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            self.postgres.start()
            self._load_schema()
            self.web.start()
            self.start_server()
            self.api.login("Admin", "zabbix")
            self.token = self.new_token()
            self.api.login(api_token=self.token)
            self._make_flush_item()
            undo.pop_all()
        return self

    def attach(self) -> None:
        """Sign in from this process too."""
        super().attach()
        self._connect()
        self.api.login(api_token=self.token)

    def detach(self) -> None:
        """Close the connections."""
        self._session.close()

    def _connect(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self.api = _Api(self.api_url, session=self._session, timeout=60)

    def start_server(self) -> None:
        """Start the server alone, on its database as it is."""
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_USER)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        settings = {
            "ListenPort": str(self.port), "ListenIP": "127.0.0.1", "LogType": "console", "SocketDir": str(self.folder),
            "PidFile": str(self.folder / "server.pid"), "DBHost": "127.0.0.1", "DBPort": str(self.postgres.port),
            "DBName": _DATABASE, "DBUser": "tests", "CacheUpdateFrequency": "1", "HousekeepingFrequency": "0",
            "StartTrappers": "4", "StartPollers": "1", "StartPollersUnreachable": "1", "StartPingers": "0",
            "StartDiscoverers": "0", "StartHTTPPollers": "0", "StartDBSyncers": "1", "StartPreprocessors": "1",
            "StartLLDProcessors": "1", "StartHistoryPollers": "0", "StartODBCPollers": "0", "StartAlerters": "1",
            "CacheSize": "32M", "Timeout": "10",
            # By itself Zabbix takes certificates with RSA keys only.
            "TLSCipherCert": "NORMAL", "TLSCipherAll": "NORMAL", "TLSCAFile": str(self.ca_file),
            "TLSCertFile": str(self._certificate.cert_file), "TLSKeyFile": str(self._certificate.key_file), **self._settings,
        }  # fmt: skip
        config = self.folder / "server.conf"
        config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self.spawn(["/usr/sbin/zabbix_server", "-f", "-c", config], ready=lambda: port_open(self.port), **identity)

    def stop(self) -> None:
        super().stop()
        self.web.stop()
        self.postgres.stop()
        self._session.close()

    def call(self, method: str, params: Any) -> Any:
        """One call of the API as the administrator. Raises ZabbixAPIException with Zabbix's own words."""
        return self.api.do_request(method, params)["result"]

    def new_token(self) -> str:
        """An API token of the administrator."""
        (number,) = self.call("token.create", {"name": f"token {os.getpid()} {next(self._numbers)}"})["tokenids"]
        token: str = self.call("token.generate", [number])[0]["token"]
        return token

    def fresh_name(self) -> str:
        """A host name that no other test has."""
        return f"host {os.getpid()} {next(self._numbers)}"

    def host_id(self, host: str) -> str | None:
        """The id of a host by its name."""
        found = self.call("host.get", {"output": ["hostid"], "filter": {"host": [host]}})
        return found[0]["hostid"] if found else None

    def items(self, host: str) -> list[dict[str, Any]]:
        """A host's items in full, sorted by key."""
        number = self.host_id(host)
        if number is None:
            return []
        found = self.call(
            "item.get", {"output": "extend", "hostids": [number], "selectTags": "extend", "selectValueMap": "extend"}
        )
        return sorted(found, key=lambda item: item["key_"])

    def history(self, host: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every value of a host, with its item's key, oldest first within an item."""
        for item in self.items(host):
            question = {
                "output": "extend", "history": int(item["value_type"]), "itemids": [item["itemid"]],
                "sortfield": "clock", "sortorder": "ASC",
            }  # fmt: skip
            for value in self.call("history.get", question):
                yield item["key_"], value

    def send(self, values: Sequence[ItemValue]) -> tuple[int, int]:
        """Hand over values as any other program would: how many were processed, and how many failed."""
        counts = Sender("127.0.0.1", self.port).send(list(values))
        return counts.processed, counts.failed

    def flush(self, values: int = 20) -> None:
        """Return once every value that was processed before is in the database, if no item has more than `values` to be stored.

        The one syncer takes a value of each item at a time, so what is stored last is the last of as many values of another.
        """
        self._flushed = max(self._flushed + values, time.time_ns())
        moments = [divmod(self._flushed - number, 10**9) for number in reversed(range(values))]
        assert self.send([ItemValue(_FLUSH, _FLUSH, "1", clock, ns) for clock, ns in moments]) == (values, 0)
        clock, last = moments[-1]
        question = {"output": ["ns"], "history": 3, "itemids": [self._flush_item], "time_from": clock, "time_till": clock}
        wait_until(
            lambda: any(int(value["ns"]) == last for value in self.call("history.get", question)),
            seconds=60, what="Zabbix to store what it took",
        )  # fmt: skip

    def make_host(self, host: str, **fields: Any) -> str:
        """A host without items; its id."""
        group = self.call("hostgroup.get", {"filter": {"name": ["Zabbix servers"]}})[0]["groupid"]
        number: str = self.call("host.create", {"host": host, "groups": [{"groupid": group}], **fields})["hostids"][0]
        return number

    def import_template(self, file: Path) -> str:
        """Import a template of one's own making; its id."""
        rules = {
            part: {"createMissing": True, "updateExisting": True}
            for part in ("groups", "templates", "valueMaps", "items", "discoveryRules", "triggers")
        }
        text = file.read_text()
        self.call("configuration.import", {"format": "yaml", "rules": rules, "source": text})
        name = yaml.safe_load(text)["zabbix_export"]["templates"][0]["template"]
        number: str = self.call("template.get", {"output": ["templateid"], "filter": {"host": [name]}})[0]["templateid"]
        return number

    def make_item(self, host: str, key: str, value_type: int, **fields: Any) -> str:
        """A trapper item; its id."""
        item = {"hostid": self.host_id(host), "name": key, "key_": key, "type": 2, "value_type": value_type, **fields}
        number: str = self.call("item.create", item)["itemids"][0]
        return number

    def _make_flush_item(self) -> None:
        self.make_host(_FLUSH)
        self._flush_item = self.make_item(_FLUSH, _FLUSH, 3)
        wait_until(lambda: self.send([ItemValue(_FLUSH, _FLUSH, "1")]) == (1, 0), seconds=60, what="Zabbix to take values")

    def _load_schema(self) -> None:
        self.postgres.execute(f"CREATE DATABASE {_DATABASE}")
        for name in ("schema", "images", "data"):
            statements = gzip.decompress((_SQL / f"{name}.sql.gz").read_bytes())
            subprocess.run(
                [self.postgres.programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", self.postgres.dsn(_DATABASE)],
                input=statements, check=True, capture_output=True,
            )  # fmt: skip
