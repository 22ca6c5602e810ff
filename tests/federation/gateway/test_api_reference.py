"""The page about the API names every route, with its scope, every parameter and every code; and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

from federation.gateway.app import ROUTERS
from federation.gateway.formats import Form
from federation.gateway.permissions import PermissionTable
from federation.gateway.routes.unified import PARAMETERS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "api.md").read_text()


def test_a_route_is_missing_in_the_reference_or_is_there_with_another_scope():
    table = PermissionTable(route for router in ROUTERS for route in router.routes)
    real = {(f"{method} {path}", "none" if needed == "public" else f"`{needed}`") for method, path, needed in table.listed()}
    written = set(re.findall(r"^\| `((?:GET|POST|PUT|DELETE) [^`]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    assert {(route, scope.strip()) for route, scope in written} == real


def test_a_parameter_of_unified_data_is_missing_in_the_reference():
    section = PAGE.partition("## Unified data")[2].partition("\n## ")[0]
    first_cells = " ".join(re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE))
    assert set(re.findall(r"`([a-z_]+)`", first_cells)) == PARAMETERS


def test_a_form_is_missing_in_the_reference():
    assert [form.value for form in Form if form.value not in PAGE] == []


def test_an_error_code_is_missing_in_the_reference():
    sources = [path.read_text() for folder in ("gateway", "adapters") for path in (ROOT / "federation" / folder).rglob("*.py")]
    sources += [(ROOT / "federation" / name).read_text() for name in ("auth.py", "limits.py")]
    sources += [(ROOT / "contract" / name).read_text() for name in ("codec.py", "compression.py", "framing.py")]
    raised = r'(?:ApiError\(\s*\w+,\s*|Denied\(\s*\d+,\s*|InvalidBody\(\s*\d+,\s*|TooMany\(\s*)"([a-z_]+)"'
    codes = {code for source in sources for code in re.findall(raised, source)}
    assert len(codes) > 20
    assert sorted(code for code in codes - {"internal", "client_closed"} if f"`{code}`" not in PAGE) == []
