#!/usr/bin/env bash
# Make .venv with everything the project needs, from the lock file. Needs only Python 3.11 or newer. Does nothing when up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UV_VERSION=0.13.9
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true} # trust what the machine trusts: sites often have a proxy with its own authority
PYTHON=${PYTHON:-python3}

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: '$PYTHON' is not Python 3.11 or newer. Install it, or name one: make setup PYTHON=/path/to/python3.11" >&2
    exit 1
fi

stamp=.venv/.trackmate-setup
fingerprint=$(cat requirements.lock pyproject.toml sdk/python/pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1)-$PWD
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ]; then exit 0; fi

if command -v uv >/dev/null 2>&1; then
    UV=uv
else
    UV=.tools/bin/uv
    if [ ! -x "$UV" ]; then
        echo "setup: fetching uv $UV_VERSION" >&2
        # A machine without ensurepip (Debian without python3-venv) still has pip for the user, or neither: say which.
        if ! "$PYTHON" -m venv .tools 2>/dev/null; then
            rm -rf .tools
            "$PYTHON" -m pip install --quiet --target .tools/lib "uv==$UV_VERSION" || {
                echo "setup: '$PYTHON' has neither venv nor pip. Install one of them (Debian: apt-get install python3-venv) or uv itself, then run again" >&2
                exit 1
            }
            mkdir -p .tools/bin && ln -sf ../lib/bin/uv "$UV"
        else
            .tools/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
        fi
    fi
fi

echo "setup: installing locked dependencies into .venv (once; a minute or two on a fresh machine)" >&2
[ -x .venv/bin/python ] || "$UV" venv --quiet --python "$PYTHON" .venv
"$UV" pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
"$UV" pip install --quiet --python .venv/bin/python --no-deps --editable . --editable sdk/python
echo "$fingerprint" >"$stamp"
echo "setup: ready; try .venv/bin/trackmate --help" >&2
