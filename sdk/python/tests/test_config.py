"""Where the configuration comes from, and what is said when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import monitoring_sdk as m
from monitoring_sdk import _config, _schema

APP = {"name": "etcher", "site_id": "fab1"}


def load(config=None, environ=None, **overrides):
    return _config.load(config, overrides, environ or {})


def test_defaults_are_those_of_the_schema():
    settings = load(app=APP)
    assert settings.mode == "sidecar"
    assert settings.sidecar.url == "http://localhost:17000"
    assert (settings.sidecar.timeout, settings.sidecar.retries, settings.sidecar.enable_spooling) == (5.0, 3, True)
    assert settings.sidecar.spool_dir == Path("/tmp/sdk-spool")
    assert (settings.queue.max_events, settings.queue.batch_size, settings.queue.flush_interval) == (10_000, 500, 1.0)
    assert settings.queue.on_full == "spool"
    assert settings.app.version is None


def test_later_source_wins(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("sdk: {app: {name: file, site_id: fab1}, sidecar: {retries: 1, timeout: 1, url: 'http://file'}}")
    environ = {
        "MONITORING_CONFIG": str(file),
        "MONITORING_SDK__SIDECAR__TIMEOUT": "2.5",
        "MONITORING_SDK__SIDECAR__URL": "http://env",
    }
    settings = load(None, environ, sidecar__url="http://argument")
    assert (settings.sidecar.retries, settings.sidecar.timeout, settings.sidecar.url) == (1, 2.5, "http://argument")


def test_document_as_an_argument_wins_over_the_environment(tmp_path):
    environ = {"MONITORING_SDK__SIDECAR__URL": "http://env", "MONITORING_SDK__SIDECAR__RETRIES": "7"}
    settings = load({"sdk": {"app": APP, "sidecar": {"url": "http://document"}}}, environ)
    assert (settings.sidecar.url, settings.sidecar.retries) == ("http://document", 7)


def test_file_in_the_working_folder_is_found(tmp_path):
    (tmp_path / "monitoring-config.yaml").write_text(yaml.safe_dump({"sdk": {"app": APP}}))
    assert load().app.name == "etcher"


def test_json_file(tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"sdk": {"app": {**APP, "version": "1.0"}}}))
    assert load(file).app.version == "1.0"


@pytest.mark.parametrize("content", ["a: [", "\x00", "- list", "'text'"])
def test_file_that_is_no_configuration_is_named(tmp_path, content):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(m.ConfigurationError, match=r"c\.yaml"):
        load(file)


def test_file_that_was_named_must_exist(tmp_path):
    with pytest.raises(m.ConfigurationError, match="no such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(m.ConfigurationError, match="no such file"):
        load(None, {"MONITORING_CONFIG": str(tmp_path / "absent.yaml")})
    with pytest.raises(m.ConfigurationError, match="can't be read"):
        load(tmp_path)


def test_empty_file_lacks_only_what_is_required(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("")
    with pytest.raises(m.ConfigurationError, match="sdk: required"):
        load(file)


def test_example_of_the_design_is_read_as_it_stands(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        """
sdk:
  mode: sidecar            # sidecar | direct
  sidecar:  {url: http://localhost:17000, timeout: 5.0, retries: 3, spool_dir: /tmp/sdk-spool, token: ${TOKEN:-}}
  direct_backends:
    - {type: filesystem, enabled: true, priority: 1, config: {path: /data/monitoring, format: jsonl, rotate_size_mb: 100}}
    - {type: s3, enabled: true, priority: 2, config: {bucket: b, endpoint_url: null, credentials: {access_key_id: ${KEY}}}}
    - {type: elk, priority: 3, config: {url: http://elasticsearch:9200, username: ${ELK_USER}, password: "${ELK_PASSWORD}"}}
  queue:    {max_events: 10000, batch_size: 500, flush_interval: 1.0, on_full: spool}     # ${NOT_READ}
  app:      {name: wafer-processing, version: 1.0.0, site_id: fab1, instance_id: ${HOSTNAME}-${N:-1}}
"""
    )
    secrets = {"KEY": "k}: [", "ELK_USER": "u", "ELK_PASSWORD": 'p"#'}
    settings = load(file, {"HOSTNAME": "etch7", **secrets})
    assert (settings.app.instance_id, settings.app.version, settings.sidecar.token) == ("etch7-1", "1.0.0", "")


def test_variables_are_interpolated_everywhere():
    document = {
        "sdk": {"app": {**APP, "instance_id": "${HOST}-${N:-0}", "version": "${EMPTY:-}x"}, "sidecar": {"token": "${T:-}"}}
    }
    settings = load(document, {"HOST": "etch7"})
    assert settings.app.instance_id == "etch7-0"
    assert settings.app.version == "x"
    assert settings.sidecar.token == ""


def test_unset_variable_is_named_with_its_key():
    with pytest.raises(m.ConfigurationError) as caught:
        load({"sdk": {"app": APP, "sidecar": {"token": "${NO_SUCH}"}}})
    (problem,) = caught.value.problems
    assert problem.path == "sdk.sidecar.token"
    assert "NO_SUCH" in problem.message


def test_five_mistakes_are_five_problems_at_once(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        """
sdk:
  mode: carrier-pigeon
  sidecar: {timeout: fast, retires: 3}
  direct_backends: [{type: s4}]
  app: {name: ${NO_SUCH_NAME}, site_id: fab1}
"""
    )
    with pytest.raises(m.ConfigurationError) as caught:
        load(file)
    problems = {problem.path: problem.message for problem in caught.value.problems}
    known = problems.pop("sdk.direct_backends[0].type")
    assert known.startswith("expected one of cloudwatch, elk, filesystem,")
    assert known.endswith('got "s4"')
    assert problems == {
        "sdk.mode": 'expected one of sidecar, direct, got "carrier-pigeon"',
        "sdk.sidecar.timeout": 'expected number, got "fast"',
        "sdk.sidecar.retires": "unknown key; did you mean retries?",
        "sdk.app.name": "environment variable NO_SUCH_NAME is not set and has no default (write ${NO_SUCH_NAME:-default})",
    }
    assert "5 problems" in str(caught.value)
    for path in problems:
        assert path in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        ({"sidecar__url": "localhost:17000"}, "sdk.sidecar.url"),
        ({"sidecar__url": "http://localhost:port"}, "sdk.sidecar.url"),
        ({"sidecar__url": "http://:17000"}, "sdk.sidecar.url"),
        ({"sidecar__timeout": 0}, "sdk.sidecar.timeout"),
        ({"sidecar__timeout": float("inf")}, "sdk.sidecar.timeout"),
        ({"sidecar__retries": -1}, "sdk.sidecar.retries"),
        ({"sidecar__retries": 1.5}, "sdk.sidecar.retries"),
        ({"sidecar__retries": True}, "sdk.sidecar.retries"),
        ({"sidecar__enable_spooling": "yes"}, "sdk.sidecar.enable_spooling"),
        ({"sidecar__spool_dir": ""}, "sdk.sidecar.spool_dir"),
        ({"sidecar": None}, "sdk.sidecar"),
        ({"queue__batch_size": 5001}, "sdk.queue.batch_size"),
        ({"queue__max_events": 0}, "sdk.queue.max_events"),
        ({"queue__flush_interval": -1}, "sdk.queue.flush_interval"),
        ({"queue__on_full": "panic"}, "sdk.queue.on_full"),
        ({"app__site_id": "s" * 65}, "sdk.app.site_id"),
        ({"app__version": [1]}, "sdk.app.version"),
        ({"nonsense": 1}, "sdk.nonsense"),
        ({"direct_backends": [{"type": "filesystem"}]}, "sdk.direct_backends[0].config"),
        (
            {"direct_backends": [{"type": "filesystem", "config": {"format": "csv", "path": "p"}}]},
            "sdk.direct_backends[0].config.format",
        ),
        ({"direct_backends": [{"type": "kafka", "name": "No!"}]}, "sdk.direct_backends[0].name"),
        ({"direct_backends": [{"type": "kafka", "timeout": 0}]}, "sdk.direct_backends[0].timeout"),
        ({"direct_backends": [{"type": "s3", "config": {"region": "x"}}]}, "sdk.direct_backends[0].config.bucket"),
        ({"direct_backends": [{"type": "managed", "config": {"url": "x"}}]}, "sdk.direct_backends[0].config.url"),
        ({"direct_backends": [{"type": "sidecar", "config": {"uri": "x"}}]}, "sdk.direct_backends[0].config.uri"),
    ],
)
def test_each_mistake_is_found_at_its_place(overrides, path):
    with pytest.raises(m.ConfigurationError) as caught:
        load(None, None, **{"app": APP, **overrides})
    assert [problem.path for problem in caught.value.problems] == [path]


def test_environment_is_read_as_yaml_but_text_stays_text():
    environ = {
        "MONITORING_SDK__APP__NAME": "007",
        "MONITORING_SDK__APP__SITE_ID": "true",
        "MONITORING_SDK__SIDECAR__ENABLE_SPOOLING": "false",
        "MONITORING_SDK__QUEUE__MAX_EVENTS": "50",
        "MONITORING_SDK__DIRECT_BACKENDS": "[{type: s3, config: {bucket: b}}]",
    }
    settings = load(None, environ)
    assert (settings.app.name, settings.app.site_id, settings.sidecar.enable_spooling) == ("007", "true", False)
    assert settings.queue.max_events == 50


def test_misspelled_environment_variable_is_an_error():
    with pytest.raises(m.ConfigurationError, match=r"sdk\.sidecar\.urll: unknown key; did you mean url"):
        load(None, {"MONITORING_SDK__SIDECAR__URLL": "x"}, app=APP)


def test_relative_spool_folder_belongs_to_the_file_that_names_it(tmp_path):
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "c.yaml").write_text(yaml.safe_dump({"sdk": {"app": APP, "sidecar": {"spool_dir": "spool"}}}))
    assert load(folder / "c.yaml").sidecar.spool_dir == folder / "spool"


def test_number_as_version_becomes_text():
    assert load({"sdk": {"app": {**APP, "version": 1.5}}}).app.version == "1.5"


def test_secret_is_shown_nowhere():
    settings = load(None, None, app=APP, sidecar__token="tm_secret")
    assert "tm_secret" not in repr(settings)


def test_caller_s_mapping_is_left_alone():
    document = {"sdk": {"app": dict(APP)}}
    load(document, None, sidecar__retries=1, app__version="2")
    assert document == {"sdk": {"app": APP}}


def test_schema_is_the_one_of_the_contract():
    contract = Path(__file__).parents[3] / "contract" / "config.schema.json"
    assert json.loads(contract.read_text()) == _config.schema()


def test_every_keyword_of_the_schema_is_understood():
    def keywords(rules):
        for key, value in rules.items():
            yield key
            if key in {"properties", "$defs"}:
                for entry in value.values():
                    yield from keywords(entry)
            elif key in {"items", "if", "then"}:
                yield from keywords(value)
            elif key == "allOf":
                for entry in value:
                    yield from keywords(entry)

    assert set(keywords(_config.schema())) <= _schema.KEYWORDS


def test_check_agrees_with_a_full_validator():
    import jsonschema

    validator = jsonschema.Draft202012Validator(_config.schema())
    sdk = {"app": APP}
    documents = [
        {}, {"sdk": None}, {"sdk": sdk}, {"sdk": {**sdk, "x": 1}}, {"sdk": sdk, "y": 1}, {"sdk": {**sdk, "mode": "direct"}},
        {"sdk": {**sdk, "queue": {"batch_size": 5000.0}}}, {"sdk": {**sdk, "queue": {"batch_size": 5000.5}}},
        {"sdk": {**sdk, "direct_backends": [{"type": "filesystem", "config": {}}, {"type": "kafka"}, {"type": "x"}, 3]}},
        {"sdk": {**sdk, "direct_backends": {}}}, {"sdk": {"app": {"name": ""}}}, {"sdk": {"app": {**APP, "version": None}}},
    ]  # fmt: skip
    for document in documents:
        ours = {problem.path for problem in _schema.check(_config.schema(), document)}
        assert bool(ours) == (not validator.is_valid(document)), document
