# Sourced by the scripts that build the SDKs: Debian packages, installed when missing, by root, one installation at a time on a machine.
# The tests take the same lock (tests/services/apt.py).
cache=${TRACKMATE_CACHE:-$HOME/.cache/trackmate}
mkdir -p "$cache"

# debian_packages WHOSE NAME…: installs what is missing, or says what to install and ends the script.
debian_packages() {
    local whose=$1 missing=() name present
    shift
    present=" $(dpkg-query -W -f '${Package}/${db:Status-Status} ' "$@" 2>/dev/null || true)"
    for name in "$@"; do
        [[ $present == *" $name/installed "* ]] || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" != 0 ]; then
        echo "$whose needs Debian packages: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    exec 8>"$cache/.apt.lock"
    flock 8
    echo "$whose: installing ${missing[*]}" >&2
    # The package lists may be missing or stale, as in a fresh container.
    _apt_install "${missing[@]}" || { apt-get update >&2 && _apt_install "${missing[@]}"; }
    exec 8>&-
}

_apt_install() {
    DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -o DPkg::Lock::Timeout=600 install --yes --no-install-recommends "$@" >"$cache/apt.log" 2>&1 || {
        tail -n 20 "$cache/apt.log" >&2
        return 1
    }
}
