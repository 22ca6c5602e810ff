"""The public names, so that none is added or lost by accident."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import monitoring_sdk
from monitoring_sdk import testing


def test_public_names():
    assert monitoring_sdk.__all__ == [
        "Answer", "BackendResult", "BackendRouter", "ConfigurationError", "EmitResult", "FlushResult", "InvalidEventError",
        "MonitoredContext", "MonitoringError", "MonitoringHandler", "NotInitializedError", "Outcome", "Problem", "Rejection",
        "Run", "Stats", "Transport", "carry", "close", "current_run", "emit_batch", "emit_event", "flush", "initialize",
        "monitored_context", "stats",
    ]  # fmt: skip
    for name in monitoring_sdk.__all__:
        assert getattr(monitoring_sdk, name).__doc__, name
    assert {name for name in vars(testing) if not name.startswith("_")} >= {"RecordingTransport", "capture"}


def test_every_other_module_is_private():
    folder = Path(monitoring_sdk.__file__).parent
    assert {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")} == {"testing"}


def test_tree_of_errors_is_the_one_that_is_drawn():
    from monitoring_sdk import _exceptions

    drawn = set(re.findall(r"^(?:[│ ]*[├└]── )?([A-Z]\w+Error)\b", _exceptions.__doc__, re.MULTILINE))
    errors = {
        name
        for name, kind in vars(_exceptions).items()
        if inspect.isclass(kind) and issubclass(kind, monitoring_sdk.MonitoringError)
    }
    assert drawn == errors


def test_errors_survive_pickling():
    import pickle

    for error in (
        monitoring_sdk.InvalidEventError("a.b", "wrong"),
        monitoring_sdk.NotInitializedError("flush"),
        monitoring_sdk.ConfigurationError("file", [monitoring_sdk.Problem("a", "b")]),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_import_is_light():
    """A program that only imports the SDK loads no HTTP server, no asyncio, no multiprocessing."""
    code = "import sys, monitoring_sdk; print(*sorted({'asyncio', 'multiprocessing', 'opentelemetry'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
