# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by scripts/test: runs scripts/demo twice in a new Debian 12 root, with what git tracks of
# this checkout. The root shares the machine's network and kernel and is told how this machine
# reaches its package registries (apt, pip, certificates, proxies), nothing else.

demo_limit_s=180

install_fresh() { need_packages mmdebstrap git; }

run_fresh() {
    fresh=$(mktemp -d "${TMPDIR:-/tmp}/pyproxy-fresh.$$.XXXXXX")
    root=$fresh/root
    # Mounts exist in the private namespace only: none is left when this removes the folder.
    trap 'end_marked; rm -rf --one-file-system "$fresh"' EXIT
    trap 'exit 130' INT TERM
    say "making a Debian 12 root"
    if ! make_root >"$fresh/log" 2>&1; then
        tail -n 40 "$fresh/log" >&2
        record fresh failed "fresh root: a Debian 12 root"
        return
    fi
    machine_state >"$fresh/before"
    run_demos
    report_demo first
    report_demo second
    report_left
}

# The marker is in the environment of everything that runs in the root.
marked_processes() {
    grep -lzxs "PYPROXY_FRESH=$fresh" /proc/[0-9]*/environ | sed 's,/proc/\([0-9]*\)/.*,\1,'
}

end_marked() {
    local -a left
    mapfile -t left < <(marked_processes)
    [ "${#left[@]}" -eq 0 ] || kill -KILL "${left[@]}" 2>/dev/null || true
}

make_root() {
    need_base && mkdir "$root" && tar -x -f "$results/base.tar" -C "$root" &&
        copy_settings && copy_checkout && mkdir -p "$root/var/lib/fresh"
}

copy_in() {
    mkdir -p "$root$(dirname "$1")" && cp -aLT "$1" "$root$1"
}

# What reaching the registries takes: name resolution, certificates (those of the machine's owner
# too, or installing ca-certificates would forget them), pip's configuration files.
copy_settings() {
    local file
    for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt \
        /usr/local/share/ca-certificates; do
        [ ! -e "$file" ] || copy_in "$file" || return
    done
    "$venv/bin/pip" config debug | sed -n 's/^ *\(\/.*\), exists: True$/\1/p' |
        while IFS= read -r file; do copy_in "$file" || return; done
    pip_paths >"$fresh/shared"
}

# pip_paths: local files and folders that pip's settings name. A PEP 503 index in a folder
# `simple` links to files beside it, so the folder above is meant.
pip_paths() {
    local word path
    "$venv/bin/pip" config list | sed "s/^[^=]*=//; s/'//g" | tr ' ' '\n' |
        while IFS= read -r word; do
            path=${word#file://}
            path=${path%/}
            [[ $path == /* && -e $path ]] || continue
            [[ $path != */simple ]] || path=${path%/simple}
            [ -f "$path" ] && copy_in "$path"
            [ ! -d "$path" ] || printf '%s\n' "$path"
        done | sort -u
}

# A clean clone: what git tracks, as it stands in the working tree; .venv and the like are not there.
copy_checkout() {
    mkdir -p "$root/root/pyproxy"
    git -c safe.directory='*' ls-files -z |
        while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
        tar -c --null -T - --no-recursion | tar -x -C "$root/root/pyproxy" --no-same-owner
    [ -x "$root/root/pyproxy/scripts/demo" ] && return
    echo "git does not track an executable scripts/demo"
    return 1
}

# run_demos: env -i because the root is another machine; only what names registries passes.
run_demos() {
    local -a settings
    mapfile -t settings < <(env | grep -E \
        '^(PIP_[A-Z_]+|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|[a-zA-Z]+_(proxy|PROXY))=')
    env -i "${settings[@]}" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        HOME=/root LANG=C.UTF-8 TERM=dumb PYPROXY_FRESH="$fresh" \
        unshare --mount --propagation private \
        bash scripts/lib/fresh_root.sh "$root" "$fresh/shared" "$demo_limit_s" \
        >"$fresh/log" 2>&1 </dev/null || tail -n 20 "$fresh/log" >&2
}

report_demo() {
    local status seconds
    read -r status seconds <"$root/var/lib/fresh/$1.exit" || status="none" seconds="no"
    say "fresh root: $1 demo ended with exit status $status after $seconds s"
    if [ "$status" = 0 ]; then
        record fresh passed "fresh root: $1 demo"
    else
        tail -n 60 "$root/var/lib/fresh/$1.log" >&2 || true
        record fresh failed "fresh root: $1 demo (exit status $status)"
    fi
}

# machine_state: what a run may leave in the shared kernel: devices, cgroups, pins.
machine_state() {
    local tree
    {
        ls /sys/class/net
        awk '$3 == "cgroup2" || $3 == "bpf" { print $2 }' /proc/self/mounts |
            while IFS= read -r tree; do find "$tree" -mindepth 1 2>/dev/null; done |
            grep -vE '/(cgroup|cpu|cpuset|hugetlb|io|irq|memory|misc|pids|rdma)\.[^/]*$'
    } | LC_ALL=C sort -u
}

# Names carry the process id of the run that made them: those of a run that still lives beside
# this one are not ours.
is_of_live_run() {
    local number
    while IFS= read -r number; do
        [ ! -d "/proc/$number" ] || return 0
    done < <(grep -oE '[0-9]{2,}' <<<"$1")
    return 1
}

left_in_machine() {
    local name
    machine_state | LC_ALL=C comm -13 "$fresh/before" - | while IFS= read -r name; do
        is_of_live_run "$name" || printf 'left in the machine: %s\n' "$name"
    done
    marked_processes | while IFS= read -r name; do
        printf 'left running: %s\n' "$(tr '\0' ' ' <"/proc/$name/cmdline")"
    done
}

report_left() {
    {
        cat "$root/var/lib/fresh/left" 2>/dev/null || echo "the runs did not end"
        left_in_machine
    } >"$fresh/left"
    cat "$fresh/left" >&2
    record fresh "$([ -s "$fresh/left" ] && echo failed || echo passed)" "fresh root: nothing left"
}
