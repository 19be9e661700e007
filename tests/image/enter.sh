#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# enter.sh ROOT SHARED COMMAND...: runs in a mount namespace of its own. Becomes COMMAND in the root
# file system ROOT, mounted as the DaemonSet does it: read-only, /tmp too, but for what is mounted
# in it: /proc, /sys with the node's bpffs and cgroup2, and SHARED at its own place, which has the
# manifests, the run-dir, the kept programs and the pins.
set -eu
root=$1 shared=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root$shared"
mount --rbind "$shared" "$root$shared"
mount -o remount,ro "$root/tmp"
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
