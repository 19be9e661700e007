#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Stands for every tool that scripts/vm calls, under the tool's name. What is called is appended to
# $FAKE/calls; what a tool would change in a machine is kept in $FAKE. $FAKE/fails has a
# pattern of `case`: the call that matches it fails.

tool=${0##*/}
printf '%s %s\n' "$tool" "$*" >>"$FAKE/calls"
fails=
[ ! -e "$FAKE/fails" ] || read -r fails <"$FAKE/fails"
# shellcheck disable=SC2254  # it is meant as a pattern
case "$tool $*" in
$fails)
    echo "$tool fails" >&2
    exit 1
    ;;
esac

[ "$tool" != sudo ] || exec "$@"

# last ARGUMENT...
last() { for last; do :; done && printf '%s\n' "$last"; }

case "$tool $*" in
"dpkg-query "*)
    # -W -f FORMAT PACKAGE...: status and package, or status and version
    format=$3
    shift 3
    for package; do
        version=$(sed -n "s/^$package //p" "$FAKE/packages" 2>/dev/null)
        case $version:$format in
        :*) ;;
        *Version*) printf 'installed %s' "$version" ;;
        *) printf 'installed %s\n' "$package" ;;
        esac
    done
    ;;
"apt-get "*" install "*)
    while [ "$1" != install ]; do shift; done
    for package; do
        case $package in
        install | -*) ;;
        *=*-\*) echo "${package%%=*} ${package#*=}" | sed 's/\*$/1.1/' >>"$FAKE/packages" ;;
        *) echo "$package 1" >>"$FAKE/packages" ;;
        esac
    done
    ;;
"swapon "*) [ -e "$FAKE/no-swap" ] || echo "/dev/sda5 partition 1G" ;;
"swapoff "*) touch "$FAKE/no-swap" ;;
"curl -fsSL "*)
    while [ "$1" != -o ]; do shift; done
    echo "a key" >"$2"
    ;;
"curl "*/proxyMode) cat "$FAKE/mode" ;;
"curl "*/livez)
    if [ -e "$FAKE/no-services" ]; then
        echo "curl: (28) timed out" >&2
        exit 28
    fi
    echo ok
    ;;
"gpg "*)
    # more than a pipe holds: whoever stops reading at the fingerprint ends gpg by SIGPIPE
    printf 'pub:-:2048:\nfpr:::::::::%s:\n' "$(cat "$FAKE/key")"
    head -c 100000 /dev/zero | tr '\0' u || exit
    ;;
"buildah push "*)
    archive=${3#docker-archive:}
    echo "$2" >"${archive%%:*}"
    ;;
"ctr "*" images list "*) grep -sxF "$(last "$@" | sed 's/^name==//')" "$FAKE/images" ;;
"ctr "*" images import "*) cat "$(last "$@")" >>"$FAKE/images" ;;
"kubeadm init "* | "kubeadm join "*)
    mkdir -p "$VM_ROOT/etc/kubernetes"
    echo "of kubeadm" | tee "$VM_ROOT/etc/kubernetes/admin.conf" >"$VM_ROOT/etc/kubernetes/kubelet.conf"
    ;;
"kubeadm reset "*) rm -rf "$VM_ROOT/etc/kubernetes" ;;
"kubectl "*" apply -f -") cat >"$FAKE/applied.yaml" ;;
"kubectl "*" apply -k "*)
    rm -rf "$FAKE/overlay"
    cp -a "$(last "$@")" "$FAKE/overlay"
    ;;
"kubectl "*" get nodes "*) cat "$FAKE/nodes" ;;
"kubectl "*" get pods "*" app.kubernetes.io/name=pyproxy") printf 'pod/pyproxy-a\npod/pyproxy-b\n' ;;
"kubectl "*" get daemonset "*) grep -s "/$7$" "$FAKE/daemonsets" ;;
esac
exit 0
