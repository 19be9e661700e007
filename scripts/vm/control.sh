#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The control plane: kubeadm init, and flannel as the pods' network.
set -euo pipefail
# shellcheck source=scripts/vm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/vm/kubeadm.sh
. "$vm/kubeadm.sh"

# flannel starts before services work: it is told where the API server is.
flannel() {
    sed -e "s|@FLANNEL_IMAGE@|$FLANNEL_IMAGE|; s|@FLANNEL_CNI_IMAGE@|$FLANNEL_CNI_IMAGE|" \
        -e "s|@API_SERVER@|$control_ipv4|; s|@PODS_IPV4@|$pods_ipv4|; s|@PODS_IPV6@|$pods_ipv6|" \
        "$vm/flannel.yaml"
}

# `vagrant ssh control -c 'kubectl get pods -A'`
give_kubeconfig() {
    local home=/home/vagrant
    put $home/.kube/config 600 <"$root/etc/kubernetes/admin.conf"
    once_with $home/.kube/config chown -R vagrant: "$root$home/.kube"
}

kubeadm_once init
give_kubeconfig
wait_for 120 "the API server" kubectl_here get --raw /readyz
flannel | kubectl_here apply -f -
