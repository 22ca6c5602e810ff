"""The golden vectors as pytest parameters."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "contract" / "vectors"


def load(name: str) -> list[Any]:
    """The vectors of one file, each under its own name."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return [pytest.param(vector, id=vector["name"][:60]) for vector in map(json.loads, lines)]


def raw(vector: dict[str, Any]) -> bytes:
    """The vector's event as the bytes that a sender would send."""
    return (vector["raw"] if "raw" in vector else json.dumps(vector["event"], ensure_ascii=False)).encode()
