# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by scripts/demo and scripts/test: makes a fresh Debian 12 ready for them.
# Every function is safe to repeat and says what it does on stderr only when it does something.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$checkout/.venv
# tc and bpftool live in sbin, which `su` without a login shell leaves out.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# need_root: ends the script unless it runs as root.
need_root() {
    [ "$(id -u)" -eq 0 ] || die "${0##*/} must run as root (it makes network namespaces and loads" \
        "BPF programs): run it with sudo, or as root in a virtual machine"
}

# logged REMEDY COMMAND...: runs a command silently; when it fails, shows what it wrote and ends
# the script with the remedy.
logged() {
    local remedy=$1 log
    shift
    log=$(mktemp)
    if "$@" >"$log" 2>&1 </dev/null; then
        rm -f "$log"
        return
    fi
    tail -n 40 "$log" >&2
    rm -f "$log"
    die "\`$*\` failed: $remedy"
}

# missing_packages PKG...: prints those that dpkg does not know as installed.
missing_packages() {
    local installed package
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    for package; do
        grep -qxF "installed $package" <<<"$installed" || printf '%s\n' "$package"
    done
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -q -y \
        install --no-install-recommends "$@"
}

# need_packages PKG...: installs what is missing. The package lists are fetched only when the
# installation fails without (no lists yet, or too old ones).
need_packages() {
    local -a missing
    command -v dpkg-query >/dev/null ||
        die "this machine has no dpkg: run on Debian 12, or install by hand: $*"
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "installing ${missing[*]}"
    need_root
    apt_install "${missing[@]}" >/dev/null 2>&1 </dev/null && return
    logged "check the network and /etc/apt/sources.list" \
        apt-get -o DPkg::Lock::Timeout=120 -q update
    logged "check that \`apt-get install ${missing[*]}\` works on this machine" \
        apt_install "${missing[@]}"
}

# venv_stamp runtime|dev: prints what a finished .venv of that kind was made from.
venv_stamp() {
    printf '%s ' "$checkout" "$(readlink -f /usr/bin/python3)"
    sha256sum <"$checkout/scripts/lock/$1.txt" | tr '\n' ' '
    sha256sum <"$checkout/pyproject.toml"
}

venv_is_current() {
    [ -x "$venv/bin/pyproxy" ] && [ -f "$venv/.made-$1" ] &&
        [ "$(cat "$venv/.made-$1")" = "$(venv_stamp "$1")" ]
}

# A copied or half-made environment is not usable: its scripts name another interpreter, or pip
# is not there yet.
venv_is_usable() {
    grep -qx 'include-system-site-packages = true' "$venv/pyvenv.cfg" 2>/dev/null &&
        [ "$(head -n 1 "$venv/bin/pip" 2>/dev/null)" = "#!$venv/bin/python3" ] &&
        "$venv/bin/python" -c 'import pip, setuptools' 2>/dev/null
}

# make_venv runtime|dev: makes .venv with the pinned packages and this checkout (editable).
# The stamps are removed first and written last, so that an interrupted run is made good by the
# next; the lock lets two scripts start at once.
make_venv() {
    local kind=$1 lock
    venv_is_current "$kind" && return
    [ "$kind" = runtime ] && venv_is_current dev && return
    # wheel: setuptools 66, which Debian 12's venv brings, builds an editable install with it.
    need_packages ca-certificates python3 python3-venv python3-wheel
    exec {lock}<"$checkout/scripts/lock"
    flock "$lock"
    venv_is_current "$kind" || fill_venv "$kind"
    exec {lock}<&-
}

fill_venv() {
    say "making .venv ($1)"
    rm -f "$venv"/.made-*
    if ! venv_is_usable; then
        rm -rf "$venv"
        logged "check that python3-venv is whole: apt-get install --reinstall python3-venv" \
            /usr/bin/python3 -m venv --system-site-packages "$venv"
    fi
    logged "check the network and pip's settings (pip config list)" \
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes \
        -r "$checkout/scripts/lock/$1.txt"
    logged "remove .venv and try again" \
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps \
        --no-build-isolation -e "$checkout"
    venv_stamp "$1" >"$venv/.made-$1.new"
    mv "$venv/.made-$1.new" "$venv/.made-$1"
}
