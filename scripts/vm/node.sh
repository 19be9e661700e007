#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What every node has: kernel modules and settings, an IPv6 address, containerd, Kubernetes' packages.
set -euo pipefail
# shellcheck source=scripts/vm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# What a cluster was made with stays: rules that one proxy has left would be measured with the next.
keep_settings() {
    local was
    was=$(cat "$root$state/settings" 2>/dev/null || true)
    case $was in
    "" | "PROXY=$PROXY KUBERNETES=$KUBERNETES") ;;
    *) die "these machines were made with $was: give that again, or begin anew" \
        "(vagrant destroy -f && PROXY=$PROXY KUBERNETES=$KUBERNETES vagrant up)" ;;
    esac
    put $state/settings <<<"PROXY=$PROXY KUBERNETES=$KUBERNETES"
}

set_up_kernel() {
    local -a modules=(overlay br_netfilter)
    [ "$PROXY" != ipvs ] || modules+=(ip_vs ip_vs_rr ip_vs_wrr ip_vs_sh nf_conntrack)
    printf '%s\n' "${modules[@]}" | put /etc/modules-load.d/pyproxy-vm.conf
    once_with /etc/modules-load.d/pyproxy-vm.conf modprobe -a "${modules[@]}"
    put /etc/sysctl.d/90-pyproxy-vm.conf <<'CONF'
net.ipv4.ip_forward = 1
net.ipv6.conf.all.forwarding = 1
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
CONF
    once_with /etc/sysctl.d/90-pyproxy-vm.conf \
        sysctl -q -p "$root/etc/sysctl.d/90-pyproxy-vm.conf"
}

# kubelet does not start while anything is swapped.
end_swap() {
    local fstab=$root/etc/fstab
    [ -z "$(swapon --noheadings --show)" ] || swapoff -a
    grep -qE '^[^#[:space:]]+[[:space:]]+[^[:space:]]+[[:space:]]+swap[[:space:]]' "$fstab" || return 0
    sed -E -i 's/^([^#[:space:]]+[[:space:]]+[^[:space:]]+[[:space:]]+swap[[:space:]])/#\1/' "$fstab"
}

start_unit() {
    systemctl daemon-reload
    systemctl enable "$1"
    systemctl restart "$1"
}

# Vagrant gives its private networks no second family.
give_ipv6() {
    local unit=/etc/systemd/system/pyproxy-vm-address.service
    put $unit <<CONF
[Unit]
Description=The IPv6 address of this node
Wants=network-online.target
After=network-online.target
Before=kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=$vm/address.sh $(node_ipv4) $(node_ipv6)/64

[Install]
WantedBy=multi-user.target
CONF
    once_with $unit start_unit "${unit##*/}"
}

# The key is taken by its fingerprint; its expiry is renewed from time to time, so its bytes change.
add_repository() {
    local minor=${KUBERNETES%.*} key=/etc/apt/keyrings/kubernetes.asc fetched keys
    local url=https://pkgs.k8s.io/core:/stable:/v$minor/deb/
    if [ ! -e "$root$key" ]; then
        fetched=$(mktemp)
        logged "check that $url can be reached" \
            curl -fsSL --retry 3 -o "$fetched" "${url}Release.key"
        keys=$(gpg --batch --quiet --show-keys --with-colons "$fetched" || true)
        grep -q "^fpr:.*:$KUBERNETES_KEY:" <<<"$keys" ||
            die "${url}Release.key is not the key $KUBERNETES_KEY (scripts/vm/versions.env)"
        put $key <"$fetched"
        rm -f "$fetched"
    fi
    put /etc/apt/sources.list.d/kubernetes.list <<<"deb [signed-by=$key] $url /"
}

install_kubernetes() {
    local package
    local -a wanted=()
    for package in kubelet kubeadm kubectl; do
        [[ $(dpkg-query -W -f '${db:Status-Status} ${Version}' $package 2>/dev/null) == \
        "installed $KUBERNETES-"* ]] || wanted+=("$package=$KUBERNETES-*")
    done
    [ "${#wanted[@]}" -gt 0 ] || return 0
    say "installing ${wanted[*]}"
    logged "check that pkgs.k8s.io can be reached" apt-get -q update
    logged "is there a release $KUBERNETES? See https://kubernetes.io/releases" \
        apt_install --allow-change-held-packages "${wanted[@]}"
    apt-mark hold kubelet kubeadm kubectl
}

set_up_containerd() {
    put /etc/containerd/config.toml <<CONF
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = true
CONF
    once_with /etc/containerd/config.toml systemctl restart containerd
}

keep_settings
end_swap
need_packages ca-certificates curl gnupg containerd conntrack ethtool iptables socat
set_up_kernel
give_ipv6
set_up_containerd
add_repository
install_kubernetes
