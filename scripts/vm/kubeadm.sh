# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced after lib.sh: kubeadm's configuration, for the control plane and for workers.

node_registration() {
    cat <<CONF
nodeRegistration:
  criSocket: unix:///run/containerd/containerd.sock
  kubeletExtraArgs:
    - {name: node-ip, value: "$(node_ipv4),$(node_ipv6)"}
CONF
}

# With pyproxy and with none, kubeadm must not install kube-proxy.
init_configuration() {
    cat <<CONF
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens:
  - token: "$JOIN_TOKEN"
    ttl: 0s
localAPIEndpoint: {advertiseAddress: $control_ipv4, bindPort: 6443}
$(node_registration)
$(case $PROXY in pyproxy | none) echo 'skipPhases: [addon/kube-proxy]' ;; esac)
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v$KUBERNETES
controlPlaneEndpoint: "$control_ipv4:6443"
networking:
  podSubnet: "$pods_ipv4,$pods_ipv6"
  serviceSubnet: "$services_ipv4,$services_ipv6"
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: systemd
CONF
    case $PROXY in
    iptables | ipvs | nftables)
        echo ---
        kube_proxy_configuration "$PROXY"
        ;;
    esac
}

# kube_proxy_configuration MODE: pyproxy reads it as well.
kube_proxy_configuration() {
    cat <<CONF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: "$1"
clusterCIDR: "$pods_ipv4,$pods_ipv6"
CONF
}

# Who knows the token is believed to be the control plane: it is random, and the machines' network
# is their own.
join_configuration() {
    cat <<CONF
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken:
    apiServerEndpoint: "$control_ipv4:6443"
    token: "$JOIN_TOKEN"
    unsafeSkipCAVerification: true
$(node_registration)
CONF
}

# kubeadm_once init|join: runs it if it has not succeeded here yet; what a failed one has left goes first.
kubeadm_once() {
    local verb=$1 config=$state/kubeadm.yaml
    [ ! -e "$root$state/kubeadm-$verb" ] || return 0
    "${verb}_configuration" | put "$config" 600
    if [ -n "$(find "$root/etc/kubernetes" -type f -print -quit)" ]; then
        say "a former kubeadm $verb did not end well: beginning anew"
        kubeadm reset --force --cri-socket unix:///run/containerd/containerd.sock
    fi
    kubeadm "$verb" --config "$root$config"
    put "$state/kubeadm-$verb" </dev/null
}
