#!/usr/bin/env bash
# Build the R SDK's source package into build/sdk/r.
# --library: install the package into a library of the cache, once for each state of the sources, and print that library's folder.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source=$root/sdk/r
source "$root/scripts/debian.sh"

# An R that comes from elsewhere than Debian has packages of its own.
case $(command -v Rscript) in
"" | /usr/bin/Rscript) debian_packages "the R SDK" r-base-core r-base-dev r-cran-curl r-cran-jsonlite r-cran-openssl r-cran-yaml ;;
esac

files() {
    cd "$root" && find sdk/r/DESCRIPTION sdk/r/NAMESPACE sdk/r/R sdk/r/src sdk/r/inst sdk/r/man -type f \
        ! -name "*.o" ! -name "*.so" -print0 | sort -z
}

if [ "${1:-}" = "--library" ]; then
    state=$(files | (cd "$root" && xargs -0 sha256sum) | sha256sum | cut -c1-16)
    built=$cache/sdk-r-$state
    if [ ! -d "$built" ]; then
        mkdir -p "$cache"
        exec 8>"$cache/.sdk-r.lock"
        flock 8
        if [ ! -d "$built" ]; then
            draft=$(mktemp -d "$cache/sdk-r-draft-XXXXXX")
            trap 'rm -rf "$draft"' EXIT
            echo "sdk-r: installing the package" >&2
            mkdir "$draft/package" "$draft/library"
            files | (cd "$root" && tar --null -cf - -T -) | tar -xf - -C "$draft/package"
            R CMD INSTALL --no-docs --no-test-load --library="$draft/library" "$draft/package/sdk/r" >"$draft/log" 2>&1 || {
                cat "$draft/log" >&2
                exit 1
            }
            mv "$draft/library" "$built"
        fi
        flock -u 8
    fi
    echo "$built"
    exit
fi

out=$root/build/sdk/r
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
cp -r "$source" "$draft/monitoring"
(cd "$draft" && R CMD build monitoring >log 2>&1) || {
    cat "$draft/log" >&2
    exit 1
}
rm -rf "$out"
mkdir -p "$out"
cp "$draft"/monitoring_*.tar.gz "$out"
echo "sdk-r: built $(cd "$out" && ls -1 *.tar.gz) in build/sdk/r"
echo "sdk-r: the harness is started by sdk/r/harness/run"
