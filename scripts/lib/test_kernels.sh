# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by scripts/test: the tests marked `kernel` on Debian 12's own kernel, which is the first
# kernel that pyproxy runs on. qemu boots it with this machine's root file system, read-only.

guest_series=6.1
boot_limit_s=180
guest_limit_s=3600
kernel_cache=${XDG_CACHE_HOME:-$HOME/.cache}/pyproxy/kernels

# busybox-static, udev and kmod: what virtme-ng's initramfs and init call.
install_kernels() {
    local qemu
    case $(dpkg --print-architecture) in
    amd64) qemu="qemu-system-x86" ;;
    arm64) qemu="qemu-system-arm" ;;
    *) die "the kernels layer knows amd64 and arm64 machines only: run the other layers" ;;
    esac
    need_packages "${datapath_packages[@]}" "$qemu" busybox-static udev kmod file \
        wireguard-tools
}

# start_guest_layer: runs this layer beside what follows, to which it leaves every CPU that is wanted.
# What it needs is installed before: two that install at once get into each other's way.
start_guest_layer() {
    (make_venv dev && install_kernels) || true
    (chrt --idle --pid 0 "$BASHPID" >/dev/null && run_layer kernels) >"$results/kernels.log" 2>&1 &
    guest_layer=$!
}

# await_guest_layer: waits for it, and shows what it has said.
await_guest_layer() {
    wait "$guest_layer" || say "layer kernels ended early"
    guest_layer=""
    cat "$results/kernels.log" >&2
}

# end_guest_layer: ends it where somebody ends the script.
end_guest_layer() {
    [ -z "$guest_layer" ] || { kill -TERM "$guest_layer" && wait "$guest_layer"; } 2>/dev/null || true
}

# The package of the newest kernel of the series; nothing when apt knows none.
kernel_package() {
    apt-cache depends "linux-image-$(dpkg --print-architecture)" 2>/dev/null |
        sed -n "s/^ *Depends: \(linux-image-${guest_series//./\\.}\.[^ ]*\)\$/\1/p" | head -n 1
}

# fetch_kernel: prints the folder that holds boot/ and lib/modules/ of the kernel; downloads and
# unpacks it (nothing is installed) unless an earlier run did.
fetch_kernel() {
    local package version folder unpacked
    package=$(kernel_package)
    if [ -z "$package" ]; then
        apt-get -q update >/dev/null 2>&1 || true
        package=$(kernel_package)
    fi
    [ -n "$package" ] || die "apt offers no linux-image-$guest_series: use the sources of Debian 12"
    version=$(apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p')
    folder=$kernel_cache/${package}_${version//:/_}
    if [ ! -d "$folder" ]; then
        say "fetching $package $version"
        mkdir -p "$kernel_cache"
        unpacked=$(mktemp -d "$kernel_cache/new.XXXXXX")
        if ! unpack_kernel "$package" "$unpacked" || ! mv -T "$unpacked/root" "$folder"; then
            rm -rf "$unpacked"
            die "$package cannot be fetched: check the network and run apt-get update"
        fi
        rm -rf "$unpacked"
    fi
    printf '%s\n' "$folder"
}

unpack_kernel() {
    local download=(apt-get -q -o APT::Sandbox::User=root download "$1")
    (cd "$2" && { "${download[@]}" || { apt-get -q update && "${download[@]}"; }; } &&
        dpkg -x ./*.deb root && depmod -b root "$(ls root/lib/modules)") >/dev/null
}

run_kernels() {
    local folder guest shared=$results/guest status=0
    folder=$(fetch_kernel) || return 1
    mkdir -p "$shared"
    # the guest does not see this machine's /tmp
    [ ! -d "$PYPROXY_TEST_PROGRAMS" ] || cp -r "$PYPROXY_TEST_PROGRAMS" "$shared/programs"
    expect_kernel_tests
    say "booting $(basename "$folder") (everything is 24 to 36 times slower without KVM)"
    boot_guest "$folder"/boot/vmlinuz-* "$shared" >"$shared/console" 2>&1 &
    guest=$!
    # Ctrl-C does not reach what runs in the background.
    # shellcheck disable=SC2064  # the process id of now is meant
    trap "kill -TERM $guest 2>/dev/null || true" EXIT
    trap 'exit 130' INT TERM
    end_hung_boot "$guest" "$shared/release"
    wait "$guest" || status=$?
    report_guest "$shared" "$status"
}

# What the same selection holds there; tally.py fails on any that did not run in the guest. The
# guest is told which files have them: to import all others takes it a minute and more.
expect_kernel_tests() {
    PYPROXY_GUEST=$guest_series "$venv/bin/python" -m pytest --collect-only -q -m kernel \
        tests/datapath tests/kernels "${pytest_args[@]}" </dev/null 2>&1 |
        grep '::' >"$results/kernels.expected" || true
    sed 's/::.*//' "$results/kernels.expected" | sort -u >"$results/guest/files"
}

# boot_guest IMAGE SHARED: without a terminal virtme-ng loses the guest's exit status, so what
# happened is read from files in SHARED. vng finds virtme-run through PATH. KVM is not used where
# there is one: a /dev/kvm that opens may still hang the guest (nested virtualisation).
# Where it gets little of a CPU, x86's kernel sees no timer tick as it looks for that, and panics.
boot_guest() {
    local image=$1 shared=$2 command
    printf -v command '%q ' bash "$checkout/scripts/lib/guest.sh" "$checkout" "$shared" \
        "$guest_series" "${pytest_args[@]}"
    PATH=$venv/bin:$PATH exec timeout --kill-after=10 "$guest_limit_s" \
        vng --verbose --disable-kvm --run "$image" --cpus 2 --memory 2G --cwd "$checkout" \
        --append no_timer_check \
        --rwdir "$shared" --exec "$command" </dev/null
}

# end_hung_boot PID FILE: ends the process unless the guest has written FILE in time. timeout(1)
# passes the signal on to everything that it started.
end_hung_boot() {
    local deadline=$((SECONDS + boot_limit_s))
    until [ -s "$2" ]; do
        kill -0 "$1" 2>/dev/null || return 0
        if [ "$SECONDS" -ge "$deadline" ]; then
            say "the guest did not boot in $boot_limit_s s"
            kill -TERM "$1"
            return
        fi
        sleep 0.5
    done
}

report_guest() {
    local shared=$1 status=$2 release
    release=$(cat "$shared/release" 2>/dev/null || echo "none")
    say "guest kernel: $release"
    cat "$shared/log" >&2 2>/dev/null || true
    record kernels "$([[ $release == "$guest_series".* ]] && echo passed || echo failed)" \
        "the guest runs kernel $guest_series"
    record kernels "$([ "$status" -eq 0 ] && echo passed || echo failed)" \
        "the guest ended by itself in $guest_limit_s s"
    if [ ! -f "$shared/exit" ] || [ "$status" -ne 0 ]; then
        say "virtme-ng's exit status was $status; the last lines of the guest's console:"
        tail -n 40 "$shared/console" >&2
    fi
    cp "$shared/report.xml" "$results/kernels.xml" 2>/dev/null || true
    cp "$shared/exit" "$results/kernels.exit" 2>/dev/null || true
}
