#!/usr/bin/env bash
# The tests, in random order, with coverage of every process that they start. --full adds the long campaigns.
# Several workers, since most tests wait for real servers and not for the processor: TRACKMATE_TEST_WORKERS=1 for one after the other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

marker="not full"
if [ "${1:-}" = "--full" ]; then
    marker="full or not full"
    shift
fi

rm -f .coverage .coverage.*
status=0
.venv/bin/python -m pytest -m "$marker" -n "${TRACKMATE_TEST_WORKERS:-4}" --dist loadfile --cov --cov-report= --durations=15 "$@" || status=$?
.venv/bin/python -m coverage combine --quiet 2>/dev/null || true
.venv/bin/python -m coverage report --format=total >/dev/null && .venv/bin/python -m coverage report | tail -n 1
exit "$status"
