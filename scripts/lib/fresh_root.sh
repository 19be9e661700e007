#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# fresh_root.sh ROOT SHARED LIMIT: runs in a mount namespace of its own (scripts/test fresh). Turns
# ROOT into the root file system, with the folders named in the file SHARED in it, read-only; then
# runs scripts/demo twice, each for LIMIT seconds at most. Leaves in ROOT/var/lib/fresh: NAME.exit
# (exit status, seconds), NAME.log, and left (what the runs left in the root).
set -euo pipefail

enter_root() {
    local root=$1 shared=$2 limit_s=$3 folder
    # A root that is a mount point, so that it can be pivoted to and `ip netns` can work in it.
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    while IFS= read -r folder; do
        mkdir -p "$root$folder"
        mount --bind "$folder" "$root$folder"
        mount -o remount,bind,ro "$root$folder"
    done <"$shared"
    cd "$root"
    pivot_root . mnt
    exec chroot . /bin/bash /root/pyproxy/scripts/lib/fresh_root.sh --inside "$limit_s"
}

# Mounts, and what lies where running things leave files (package managers may fill the rest).
# /run/netns itself stays: `ip netns` makes it once and never removes it.
root_state() {
    {
        cut -d' ' -f2 /proc/mounts
        find /run /tmp /dev/shm -mindepth 1
    } | grep -vxF /run/netns | LC_ALL=C sort -u
}

# run_demo NAME LIMIT
run_demo() {
    local start=$SECONDS status=0
    timeout --kill-after=10 "$2" /root/pyproxy/scripts/demo \
        >"/var/lib/fresh/$1.log" 2>&1 </dev/null || status=$?
    echo "$status $((SECONDS - start))" >"/var/lib/fresh/$1.exit"
}

inside() {
    umount -l /mnt
    cd /
    root_state >/var/lib/fresh/before
    run_demo first "$1"
    run_demo second "$1"
    root_state | LC_ALL=C comm -13 /var/lib/fresh/before - |
        sed 's/^/left in the root: /' >/var/lib/fresh/left
}

if [ "$1" = --inside ]; then
    inside "$2"
else
    enter_root "$@"
fi
