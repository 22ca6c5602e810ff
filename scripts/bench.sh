#!/usr/bin/env bash
# Run every benchmark, or those named, in an environment of its own that also holds the peers; one JSON object a benchmark.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}
uv=$(command -v uv || echo .tools/bin/uv)
stamp=.venv-bench/.fingerprint
fingerprint=$(sha256sum requirements-bench.lock | cut -d' ' -f1)-$PWD
if [ "$(cat "$stamp" 2>/dev/null)" != "$fingerprint" ]; then
    "$uv" venv --quiet --allow-existing --python .venv/bin/python .venv-bench
    "$uv" pip sync --quiet --python .venv-bench/bin/python --require-hashes requirements-bench.lock
    "$uv" pip install --quiet --python .venv-bench/bin/python --no-deps --editable . --editable sdk/python
    echo "$fingerprint" >"$stamp"
fi
if [ $# -eq 0 ]; then
    set -- emit_cost emit_cost_c emit_cost_java emit_cost_perl emit_cost_r emit_memory spool_append sidecar_ack attached_backends delivery_rate router_isolation hot_ingest managed_ingest hot_to_delta sql_latency unified_latency
fi
for name in "$@"; do
    echo "benchmark: $name" >&2
    .venv-bench/bin/python -m "benchmarks.$name"
done
