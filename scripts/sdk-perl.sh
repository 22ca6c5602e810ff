#!/usr/bin/env bash
# Build the Perl SDK: tested, packed into build/sdk/, the harness ready. With --need only what it needs from Debian is installed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/debian.sh"

debian_packages "the Perl SDK" perl make libyaml-libyaml-perl libjson-xs-perl libio-socket-ssl-perl
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
