# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by scripts/test, after setup.sh. Every layer leaves in $results: LAYER.xml (pytest's
# report) or LAYER.checks (one line a check: name, status, tab-separated), LAYER.exit (pytest's
# exit status) and LAYER.seconds. tally.py counts them. scripts/test sets results and pytest_args.

# What the tests drive; python3-bpfcc brings libbcc and libbpf, systemd brings networkd.
datapath_packages=(
    python3-bpfcc iproute2 nftables iptables ipset ipvsadm kmod strace bpftool tcpdump gcc
    libc6-dev procps util-linux systemd dbus
)

run_layer() {
    local layer=$1 start
    say "== $layer"
    make_venv dev
    "install_$layer"
    start=$EPOCHREALTIME
    "run_$layer"
    seconds_since "$start" >"$results/$layer.seconds"
}

# seconds_since TIME: prints them; a time is what EPOCHREALTIME was then.
seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f\n", b - a }'; }

install_unit() {
    need_packages git clang-format shellcheck openssl
    need_kubectl
}
install_datapath() { need_packages "${datapath_packages[@]}"; }
install_e2e() {
    # vagrant validates its file and starts nothing: it needs nothing of what it recommends
    need_packages "${datapath_packages[@]}" openssl vagrant vagrant-libvirt
    need_prometheus
    need_kubectl
}

# Prometheus is not installed, since its package starts a service on every address of the machine;
# kubectl is not, since another one may well be.
need_prometheus() { unpack_package prometheus prometheus prometheus promtool; }
need_kubectl() { unpack_package kubernetes-client kubectl kubectl; }

# unpack_package PACKAGE FOLDER PROGRAM...: puts programs of a Debian package into .venv/FOLDER.
unpack_package() {
    local package=$1 folder=$venv/$2 unpacked program
    shift 2
    # the last one says that all are there
    [ ! -x "$folder/${*: -1}" ] || return 0
    say "fetching $package"
    unpacked=$(mktemp -d)
    if ! (cd "$unpacked" && apt-get -q download "$package" >/dev/null 2>&1 </dev/null); then
        logged "check the network and /etc/apt/sources.list" \
            apt-get -o DPkg::Lock::Timeout=120 -q update
        (cd "$unpacked" && logged "check that \`apt-get download $package\` works here" \
            apt-get -q download "$package")
    fi
    logged "try again: the package came broken" dpkg -x "$unpacked/${package}"_*.deb "$unpacked"
    mkdir -p "$folder"
    for program; do
        mv "$unpacked/usr/bin/$program" "$folder/"
    done
    rm -rf "$unpacked"
}

# Sources of Debian 12 as this machine's apt knows them; none known: mmdebstrap's own default.
debian_sources() {
    # shellcheck disable=SC2016  # apt's own variables
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Identifier: Packages' 'Origin: Debian' | grep -E ' bookworm(-security|-updates)? '
}

# need_base: makes $results/base.tar, a new Debian 12 root, once for the layers that start from one.
# usr-is-merged: else Perl would come along, to merge what mmdebstrap has merged already.
need_base() {
    local -a sources
    [ ! -f "$results/base.tar" ] || return 0
    mapfile -t sources < <(debian_sources)
    apt-config dump Acquire | grep -v '^Acquire::IndexTargets' >"$results/apt.conf"
    mmdebstrap --variant=minbase --aptopt="$results/apt.conf" --dpkgopt=force-unsafe-io \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged \
        bookworm "$results/base.new.tar" "${sources[@]}" &&
        mv "$results/base.new.tar" "$results/base.tar"
}

# The linters run beside the tests: on two cores that halves the time of this layer.
run_unit() {
    local linting
    lint >"$results/lint.log" 2>&1 &
    linting=$!
    # two processes: most of the time goes into starting and stopping small things
    run_pytest unit -n 2 tests/unit
    wait "$linting" || true
    cat "$results/lint.log" >&2
}

# Two processes, each with a node of its own.
run_datapath() { run_pytest datapath -n 2 --dist loadfile tests/datapath tests/kernels; }

# The clusters run with both ways of translating, one after the other; all else runs once.
run_e2e() {
    run_pytest e2e tests/api tests/vm tests/e2e --socket-translation all --socket-translation host
}

run_pytest() {
    local layer=$1 status=0
    shift
    "$venv/bin/python" -m pytest "$@" -o junit_family=xunit1 --junitxml="$results/$layer.xml" \
        "${pytest_args[@]}" </dev/null || status=$?
    echo "$status" >"$results/$layer.exit"
}

# record LAYER STATUS NAME: one line of a report; STATUS is passed or failed.
record() { printf '%s\t%s\n' "$3" "$2" >>"$results/$1.checks"; }

# check LAYER NAME COMMAND...: the command's exit status decides; its output is shown on failure.
check() {
    local layer=$1 name=$2 output
    shift 2
    if output=$("$@" 2>&1 </dev/null); then
        record "$layer" passed "$name"
    else
        printf '%s\n' "$output" | tail -n 60 >&2
        record "$layer" failed "$name"
    fi
}

# tally LAYER...: counts every report and prints the last line; its exit status is the answer.
tally() {
    local -a selected=()
    [ "${#pytest_args[@]}" -eq 0 ] || selected=(--selected)
    /usr/bin/env python3 scripts/lib/tally.py "${selected[@]}" \
        --results "$results" --skips tests/skips.txt "$@"
}
