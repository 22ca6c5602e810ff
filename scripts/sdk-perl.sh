#!/usr/bin/env bash
# Build the Perl SDK: tested, packed into build/sdk/, the harness ready. With --need only what it needs from Debian is installed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${TRACKMATE_CACHE:-$HOME/.cache/trackmate}
packages="perl make libyaml-libyaml-perl libjson-xs-perl libio-socket-ssl-perl"

need() {
    local missing=() name
    for name in $packages; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" != 0 ]; then
        echo "the Perl SDK needs Debian packages: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    exec 8>"$cache/.apt.lock"
    flock 8
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}" >&2 ||
        { apt-get update >&2 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}" >&2; }
    flock -u 8
}

mkdir -p "$cache"
need
case "${1:-}" in
--need) ;;
"")
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    cp -r "$root"/sdk/perl/{lib,t,Makefile.PL,MANIFEST.SKIP,README.md} "$folder/"
    cd "$folder"
    perl Makefile.PL >/dev/null
    make manifest >/dev/null 2>&1
    make test
    make dist >/dev/null
    mkdir -p "$root/build/sdk"
    cp Monitoring-SDK-*.tar.gz "$root/build/sdk/"
    ls "$root"/build/sdk/Monitoring-SDK-*.tar.gz
    echo "harness: sdk/perl/harness/run"
    ;;
*)
    echo "usage: scripts/sdk-perl.sh [--need]" >&2
    exit 2
    ;;
esac
