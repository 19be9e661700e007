#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# address.sh IPV4 IPV6/LENGTH: gives the device that has IPV4 the other address as well.
set -euo pipefail

device=
for _ in {1..60}; do
    device=$(ip -o -4 address show to "$1/32" | awk 'NR == 1 { print $2 }')
    [ -z "$device" ] || break
    sleep "${VM_PAUSE_S:-1}"
done
if [ -z "$device" ]; then
    echo "error: no device has $1: is the machine's private network up? (ip address)" >&2
    exit 1
fi
# without the search for duplicates kubelet can bind it at once
ip -6 address replace "$2" dev "$device" nodad
