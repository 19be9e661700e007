#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Runs a command as a container of the DaemonSet in deploy/ runs it, as far as that can be had without
# a container runtime: pid and mount namespaces of its own, a read-only root with this machine's
# programs, /proc/sys and /sys read-only, only these capabilities, no_new_privs. No seccomp.
#
# usage: contain.sh LAB CHECKOUT CAPABILITY,... COMMAND...
#
# LAB, which may be written, stands for all that is mounted from the node; /host/proc/sys/net is
# where deploy/ has it. Call it in a new mount and pid namespace:
#   unshare --mount --pid --fork --kill-child --propagation slave contain.sh ...
set -eu
lab=$1 checkout=$2 capabilities=$3
shift 3

root=$(mktemp -d "$lab/root.XXXXXX")
mount -t tmpfs -o mode=0755 tmpfs "$root"

# bound PATH [OPTION]...: shows a folder of this machine at the same place.
bound() {
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    [ $# -lt 2 ] || mount -o "remount,bind,$2" "$root$1"
}

bound /usr ro
bound /etc ro
for each in /bin /sbin /lib /lib32 /lib64 /libx32; do
    [ ! -L "$each" ] || cp -P "$each" "$root$each"
    [ -L "$each" ] || [ ! -d "$each" ] || bound "$each" ro
done
bound /dev
[ ! -d "${HOME}/.pyenv" ] || bound "${HOME}/.pyenv" ro
bound "$checkout" ro
bound "$lab"

mkdir -p "$root/proc" "$root/sys" "$root/run" "$root/tmp" "$root/host/proc/sys/net"
mount -t proc proc "$root/proc"
mount --bind /proc/sys/net "$root/host/proc/sys/net"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
mount -o remount,bind,ro "$root/sys/fs/cgroup"
: >"$root/run/xtables.lock"
mount -o remount,ro "$root"

keep=-all
for each in $(echo "$capabilities" | tr '[:upper:],' '[:lower:] '); do
    keep=$keep,+$each
done
exec chroot "$root" setpriv --bounding-set "$keep" --inh-caps -all --no-new-privs -- \
    env TMPDIR="$lab" "$@"
