"""The example configuration on a backend's documentation page, as the sidecar reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

PAGES = Path(__file__).parents[2] / "docs" / "backends"


def documented_backend(name: str) -> dict[str, Any]:
    """The `config` block of the first backend of this type in the page's first sidecar.yaml; every ${VARIABLE} is `x`."""
    page = (PAGES / f"{name}.md").read_text()
    text = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]  # type: ignore[index]
    tree = yaml.safe_load(re.sub(r"\$\{(\w+)(:-[^}]*)?\}", "x", text))
    return next(backend["config"] for backend in tree["sidecar"]["backends"] if backend["type"] == name)
