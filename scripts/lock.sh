#!/usr/bin/env bash
# Resolve every dependency of every role into requirements.lock, with hashes and without naming where packages come from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}
uv=$(command -v uv || echo .tools/bin/uv)
options=(--universal --generate-hashes --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links
    --no-emit-package trackmate --no-emit-package monitoring-sdk --quiet)
"$uv" pip compile pyproject.toml --all-extras --group dev "${options[@]}" "$@" -o requirements.lock
"$uv" pip compile pyproject.toml --all-extras --group dev --group bench "${options[@]}" "$@" -o requirements-bench.lock
