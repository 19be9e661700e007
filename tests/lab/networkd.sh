#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# networkd.sh FOLDER: systemd-networkd in the network namespace that this is run in, and in a mount
# namespace of its own (unshare --mount --propagation private). It takes the *.network files of
# FOLDER, which it may not be able to read itself, writes its log there, and has a bus of its own, by
# which networkctl talks to it. Ends when networkd does.
set -eu
# of this network namespace; networkd waits for no udev where /sys is read-only
mount -t sysfs -o ro sysfs /sys
mount -t tmpfs tmpfs /run
for folder in links leases lldp; do mkdir -p "/run/systemd/netif/$folder"; done
chown -R systemd-network: /run/systemd/netif
mkdir /run/dbus /run/systemd/network
cp "$1"/*.network /run/systemd/network/
dbus-daemon --system --nofork --nopidfile --nosyslog >"$1/bus.log" 2>&1 &
bus=$!
until [ -S /run/dbus/system_bus_socket ]; do
    kill -0 "$bus" || exit 1
    sleep 0.05
done
status=0
SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console \
    /lib/systemd/systemd-networkd >>"$1/networkd.log" 2>&1 || status=$?
kill "$bus"
exit "$status"
