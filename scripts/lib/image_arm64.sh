#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# image_arm64.sh PIP: do the packages of the image exist for arm64, in these versions? Debian's by
# apt, with lists and an empty dpkg of its own; Python's by PIP, hashes included. Nothing is
# installed. docs/image.md says what this proves.
set -euo pipefail
pip=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

debian() {
    local -a options=(
        -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Acquire::Languages=none
        -o Dir::State="$work/state" -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache"
        -o APT::Sandbox::User=root -o Debug::NoLocking=1
    )
    local -a wanted
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
    : >"$work/status"
    mapfile -t wanted < <(grep -v '^#' scripts/lock/debian.txt)
    apt-get -q "${options[@]}" update
    apt-get -q "${options[@]}" install --simulate --no-install-recommends "${wanted[@]}"
}

python() {
    "$pip" install -q --disable-pip-version-check --dry-run --ignore-installed --target "$work/python" \
        --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 --only-binary :all: \
        --no-deps --require-hashes -r scripts/lock/runtime.txt
}

cd "$(dirname "$0")/../.."
debian
python
