"""Finding sinks by type, and their configuration."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from contract.errors import ConfigError, TrackMateError
from sinks import registry
from sinks.base import Sink


@pytest.mark.parametrize("kind", ["managed", "filesystem"])
def test_sink_of_ours_is_not_registered(kind: str) -> None:
    assert kind in registry.known_types()
    config: dict[str, Any] = {"url": "http://127.0.0.1:1"} if kind == "managed" else {"path": "x"}
    assert isinstance(registry.make_sink(kind, "name", config), Sink)


def test_unknown_type_does_not_tell_which_there_are() -> None:
    with pytest.raises(registry.UnknownSink, match=r"carrier-pigeon.*filesystem.*managed"):
        registry.sink_class("carrier-pigeon")


def test_broken_package_of_another_ends_in_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("theirs", "sinks.base:NotThere", registry.GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: {"theirs": broken})
    with pytest.raises(TrackMateError, match=r"'theirs' can't be loaded from sinks\.base:NotThere: AttributeError: .*NotThere"):
        registry.parse_config("theirs", {})


def test_only_one_mistake_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        registry.parse_config("filesystem", {"paht": "x", "rotate_seconds": 0, "format": "xml"})
    assert {problem.path for problem in error.value.problems} == {"paht", "path", "rotate_seconds", "format"}


def test_wrong_type_of_a_path_or_secret_is_not_named() -> None:
    with pytest.raises(ConfigError) as error:
        registry.parse_config("managed", {"url": "http://x", "token": 12})
    assert [problem.path for problem in error.value.problems] == ["token"]
    with pytest.raises(ConfigError):
        registry.parse_config("filesystem", {"path": ["x"]})


@pytest.mark.parametrize("kind", registry.known_types())
def test_pattern_of_a_setting_has_no_words(kind: str) -> None:
    assert all(registry.descriptions(registry.sink_class(kind).Config).values())


class Tree(msgspec.Struct):
    """A setting that holds itself, as a plugin's may."""

    label: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", description="small letters")]
    below: list[Tree] = []


def test_setting_that_holds_itself_is_looked_at_for_ever() -> None:
    assert registry.descriptions(Tree) == {"^[a-z]+$": "small letters"}


@pytest.mark.parametrize(
    ("kind", "config", "problem"),
    [
        ("managed", {"url": "gateway:17080"}, "url: expected an address that begins with http:// or https://"),
        ("elk", {"url": "es:9200"}, "`url`: expected an address such as https://host:9200"),
        ("elk", {"url": ["http://a", "b"]}, "url[1]: expected an address such as https://host:9200"),
        ("kafka", {"bootstrap_servers": "k:9092", "topic": "a b"}, "topic: expected 1 to 249 letters, digits and . _ -"),
        ("s3", {"bucket": "my bucket"}, "bucket: expected the name of a bucket"),
        ("cloudwatch", {"logs": {"log_group": "a*b"}}, "logs.log_group: expected 1 to 512 letters"),
    ],
)
def test_text_that_does_not_fit_is_answered_by_a_pattern(kind: str, config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.parse_config(kind, config)
    (found,) = error.value.problems
    assert str(found).startswith(problem)


def test_pattern_without_words_in_a_sink_of_another_package_is_answered_by_a_key_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config(msgspec.Struct):
        host: Annotated[str, msgspec.Meta(pattern="^[a-z]+$")]

    class TheirSink:
        pass

    TheirSink.Config = Config  # type: ignore[attr-defined]
    monkeypatch.setattr(registry, "sink_class", lambda _: TheirSink)
    with pytest.raises(ConfigError, match=r"host: expected `str` matching regex '\^\[a-z\]\+\$'"):
        registry.parse_config("theirs", {"host": "A B"})


def test_secret_is_shown() -> None:
    config = registry.parse_config("managed", {"url": "http://x", "token": "tm_hidden"})
    assert "tm_hidden" not in repr(config)


def test_relative_path_is_taken_from_where_the_program_runs(tmp_path: Path) -> None:
    config: Any = registry.parse_config("filesystem", {"path": "out"}, base=tmp_path)
    assert config.path == tmp_path / "out"
