"""Configuration: order of precedence, interpolation, and every mistake named at once."""

import pytest

from contract import settings
from contract.errors import ConfigError

GOOD = """
hot: {dsn: "postgresql://localhost/trackmate"}
lake: {root: "${LAKE_ROOT:-/var/lake}"}
"""


def load(tmp_path, text, environ=None, overrides=None):
    file = tmp_path / "trackmate.yaml"
    file.write_text(text)
    return settings.load("trackmate", file, env_prefix="TRACKMATE", environ=environ or {}, overrides=overrides)


def problems(tmp_path, text, environ=None):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, environ)
    return {problem.path: problem.message for problem in caught.value.problems}, str(caught.value)


def test_five_mistakes_are_reported_one_a_run(tmp_path):
    found, text = problems(
        tmp_path,
        """
gateway: {listen: nowhere, port: 1}
hot: {dsn: "${HOT_DSN}", pool_size: many}
lake: {}
""",
    )
    assert set(found) == {"gateway.listen", "gateway.port", "hot.dsn", "hot.pool_size", "lake.root"}
    assert found["gateway.port"].startswith("unknown key; known here: ")
    assert "HOT_DSN is not set" in found["hot.dsn"]
    assert found["hot.pool_size"] == 'expected integer, got "many"'
    assert found["lake.root"] == "required but missing"
    assert "5 problems" in text
    assert str(tmp_path) in text


def test_a_later_source_does_not_win(tmp_path):
    assert load(tmp_path, GOOD)["lake"]["root"] == "/var/lake"
    assert load(tmp_path, GOOD, {"LAKE_ROOT": "/file"})["lake"]["root"] == "/file"
    environ = {"LAKE_ROOT": "/file", "TRACKMATE__LAKE__ROOT": "/environment", "TRACKMATE__HOT__POOL_SIZE": "7"}
    assert load(tmp_path, GOOD, environ)["lake"]["root"] == "/environment"
    assert load(tmp_path, GOOD, environ)["hot"]["pool_size"] == 7
    assert load(tmp_path, GOOD, environ, {"lake.root": "/argument"})["lake"]["root"] == "/argument"


def test_text_that_looks_like_a_number_is_turned_into_one(tmp_path):
    assert load(tmp_path, GOOD, {"TRACKMATE__LAKE__ROOT": "007"})["lake"]["root"] == "007"


def test_an_unset_variable_of_a_disabled_backend_stops_the_start(tmp_path):
    file = tmp_path / "sidecar.yaml"
    text = """
sidecar:
  spool: {dir: spool}
  backends:
    - {type: zabbix, enabled: %s, config: {url: "http://zabbix:10051", api_key: "${ZABBIX_API_KEY}"}}
"""
    file.write_text(text % "false")
    loaded = settings.load("sidecar", file, env_prefix="TRACKMATE", environ={})
    assert loaded["sidecar"]["backends"][0]["config"]["api_key"] == ""
    file.write_text(text % "true")
    with pytest.raises(ConfigError) as caught:
        settings.load("sidecar", file, env_prefix="TRACKMATE", environ={})
    assert [problem.path for problem in caught.value.problems] == ["sidecar.backends[0].config.api_key"]


@pytest.mark.parametrize("text", ["- a", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_gives_a_traceback(tmp_path, text):
    assert str(tmp_path / "trackmate.yaml") in problems(tmp_path, text)[1]


def test_a_missing_file_gives_a_traceback(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        settings.load("trackmate", tmp_path / "none.yaml", env_prefix="TRACKMATE", environ={})


def test_python_objects_can_be_made_from_yaml(tmp_path):
    assert "not valid YAML" in problems(tmp_path, "hot: !!python/object/apply:os.system ['true']")[1]


def test_a_secret_is_shown():
    secret = settings.Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {secret!s}"
    assert secret.reveal() == "hunter2"


@pytest.mark.parametrize(("text", "size"), [("64MiB", 64 * 2**20), ("1.5GB", 1_500_000_000), (10, 10), ("7", 7), ("2 KiB", 2048)])
def test_a_size_is_misread(text, size):
    assert settings.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("500ms", 0.5), ("2h", 7200), ("90d", 7_776_000), (3, 3), ("1.5m", 90)]
)
def test_a_duration_is_misread(text, seconds):
    assert settings.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1s", "1 week", "1e3"])
def test_nonsense_is_read_as_a_size_or_duration(text):
    with pytest.raises(ValueError, match="expected a size"):
        settings.parse_size(text)
    with pytest.raises(ValueError, match="expected a duration"):
        settings.parse_duration(text)


def test_a_variable_in_a_flow_mapping_needs_quotes(tmp_path):
    text = """
hot: {dsn: postgresql://${DB_USER}:${DB_PASSWORD:-}@localhost/trackmate, retention: 30d}
lake: {root: ${LAKE_ROOT}, storage_options: {key: "a ${LAKE_ROOT} b"}}
"""
    tree = load(tmp_path, text, {"DB_USER": "me", "LAKE_ROOT": "/lake"})
    assert tree["hot"]["dsn"] == "postgresql://me:@localhost/trackmate"
    assert tree["lake"] == {"root": "/lake", "storage_options": {"key": "a /lake b"}}


PUBLISHED = """
sidecar:
  listen: 127.0.0.1:17000
  tokens: []                                   # SHA-256 of accepted tokens; empty: loopback only
  spool: {dir: /var/lib/trackmate/spool, max_bytes: 10GiB, segment_bytes: 64MiB, segment_age: 30s, high_water: 0.8}
  adopt: [/tmp/sdk-spool]
  shutdown_grace: 10s
  backends:
    - {name: managed, type: managed, priority: 1, config: {url: http://127.0.0.1:17080, token: ${TRACKMATE_TOKEN:-}}}
    - {name: backup, type: filesystem, priority: 2, delivery: always, match: {}, config: {path: /data/monitoring, format: jsonl}}
"""


def test_the_published_sidecar_configuration_is_refused(tmp_path):
    file = tmp_path / "sidecar.yaml"
    file.write_text(PUBLISHED)
    tree = settings.load("sidecar", file, env_prefix="TRACKMATE", environ={"TRACKMATE_TOKEN": "tm_x"})
    assert tree["sidecar"]["backends"][0]["config"]["token"] == "tm_x"
