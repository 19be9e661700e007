# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by scripts/test: builds the image as the Dockerfile says, by buildah and without a registry,
# on a Debian 12 base made here, and runs tests/image in its root file system. How this machine
# reaches its package registries is in the base and in a folder that is mounted for the build.

image_name=pyproxy:test

install_image() {
    need_packages "${datapath_packages[@]}" buildah mmdebstrap git file
}

run_image() {
    local status=0
    image_work=$(mktemp -d "${TMPDIR:-/tmp}/pyproxy-image.$$.XXXXXX")
    trap remove_image EXIT
    trap 'exit 130' INT TERM
    say "building the image"
    scripts/lib/image_arm64.sh "$venv/bin/pip" >"$image_work/arm64.log" 2>&1 &
    arm64=$!
    build_image >"$image_work/log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 60 "$image_work/log" >&2
        record image failed "the image is built"
        echo 1 >"$results/image.exit"
        return
    fi
    record image passed "the image is built"
    image_inspect "$image_work/config.json"
    report_arm64
    PYPROXY_IMAGE_ROOT=$(mount_image) PYPROXY_IMAGE_CONFIG=$image_work/config.json \
        run_pytest image tests/image
}

# vfs and chroot: what works in a container, too.
in_storage() {
    buildah --root "$image_work/storage" --runroot "$image_work/runroot" --storage-driver vfs "$@"
}

remove_image() {
    in_storage umount --all >/dev/null 2>&1 || true
    rm -rf --one-file-system "$image_work"
}

report_arm64() {
    local status=0
    wait "$arm64" || status=$?
    [ "$status" -eq 0 ] || tail -n 40 "$image_work/arm64.log" >&2
    record image "$([ "$status" -eq 0 ] && echo passed || echo failed)" "packages exist for arm64"
}

# Packages come while the base is made, for arm64 as well.
build_image() {
    local fetching made
    fetch_wheels &
    fetching=$!
    need_base || return
    made=$(in_storage from scratch) &&
        in_storage add -q "$made" "$results/base.tar" / &&
        in_storage commit -q --rm "$made" localhost/base:12 &&
        wait "$fetching" || return
    in_storage bud --isolation chroot --jobs 2 --layers=false -t "$image_name" \
        --build-arg BASE=localhost/base:12 --build-arg PIP_CONFIG_FILE=/mnt/pip.conf \
        -v "$image_work/pip:/mnt:ro" -f Dockerfile .
}

# fetch_wheels: what the lock names, from where this machine has it. The build looks nowhere else,
# and /mnt is a folder of every base, so that nothing of this is left in the image.
fetch_wheels() {
    mkdir -p "$image_work/pip/wheels"
    printf '[global]\nno-index = true\nfind-links = /mnt/wheels\n' >"$image_work/pip/pip.conf"
    "$venv/bin/pip" download -q --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes -r scripts/lock/runtime.txt -d "$image_work/pip/wheels"
}

mount_image() { in_storage mount "$(in_storage from "$image_name")"; }

image_inspect() { in_storage inspect --type image "$image_name" >"$1"; }
