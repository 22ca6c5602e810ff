#!/usr/bin/env bash
# Build the C SDK: tested, packed into build/sdk/, the harness ready. With --harness only the harness, whose path is printed.
# With --build DIR [cmake options] only a build folder of that content, whose path is printed.
# A build is kept under a name made from what went into it, so whoever asks again gets it at once; a lock makes it once.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source=$root/sdk/c
source "$root/scripts/debian.sh"

# build NAME [cmake options]: prints the folder.
build() {
    local name=$1 hash folder parts=(harness tests fuzz)
    shift
    [ "$name" != harness ] || parts=(harness)
    hash=$( (cd "$source" && find CMakeLists.txt README.md cmake include schema src "${parts[@]}" -type f ! -name '*.py' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; echo "$*"; cc --version | head -1) | sha256sum | cut -c1-16)
    folder=$cache/sdk-c-$name-$hash
    exec 9>"$cache/.sdk-c-$name.lock"
    flock 9
    if [ ! -e "$folder/.done" ]; then
        find "$cache" -maxdepth 1 -name "sdk-c-$name-*" -mtime +2 -exec rm -rf {} +
        rm -rf "$folder"
        # Sources of its own: packing builds again what has changed, and this checkout may change or go.
        mkdir -p "$folder/source"
        cp -R "$source/." "$folder/source"
        {
            cmake -S "$folder/source" -B "$folder" -DCMAKE_INSTALL_PREFIX="$folder/installed" -DCMAKE_INSTALL_LIBDIR=lib "$@"
            cmake --build "$folder" --parallel 2
        } >"$cache/sdk-c-$name.log" 2>&1 || { cat "$cache/sdk-c-$name.log" >&2; exit 1; }
        touch "$folder/.done"
    fi
    flock -u 9
    echo "$folder"
}

debian_packages "the C SDK" libcurl4-openssl-dev libcjson-dev libyaml-dev zlib1g-dev cmake make pkg-config gcc g++
case "${1:-}" in
--harness)
    folder=$(build harness -DMON_TESTS=OFF)
    echo "$folder/harness/monitoring-harness"
    ;;
--build)
    shift
    build "$@"
    ;;
"")
    folder=$(build release)
    (cd "$folder" && ctest --output-on-failure)
    mkdir -p "$root/build/sdk"
    (cd "$folder" && cpack -B "$folder/packed" >/dev/null)
    cp "$folder"/packed/*.tar.gz "$root/build/sdk/"
    ls "$root"/build/sdk/monitoring-*.tar.gz
    echo "harness: sdk/c/harness/run"
    ;;
*)
    echo "usage: scripts/sdk-c.sh [--harness | --build NAME [cmake options]]" >&2
    exit 2
    ;;
esac
