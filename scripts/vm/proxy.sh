#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Applies pyproxy's DaemonSet (deploy/) with the image that the nodes build, the pods' network, and the
# API server's address, since no service works before the agents run. The modes of kube-proxy are kubeadm's business (kubeadm.sh).
set -euo pipefail
# shellcheck source=scripts/vm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/vm/kubeadm.sh
. "$vm/kubeadm.sh"

# In the words of deploy/: the kustomize of Debian's kubectl knows no newer ones.
kustomization() {
    cat <<CONF
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
bases: [deploy/base]
images:
  - {name: pyproxy, newTag: "$(image_tag)"}
configMapGenerator:
  - name: pyproxy-api
    namespace: kube-system
    literals: [host=$control_ipv4, port=6443]
  - name: pyproxy-kube-proxy
    namespace: kube-system
    behavior: replace
    files: [config.conf]
patchesStrategicMerge: [own-image.yaml]
CONF
}

# Every node has built its own image: no registry is asked for it.
own_image() {
    cat <<'CONF'
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: pyproxy, namespace: kube-system}
spec:
  template:
    spec:
      initContainers: [{name: bpffs, imagePullPolicy: Never}]
      containers: [{name: pyproxy, imagePullPolicy: Never}]
CONF
}

[ "$PROXY" = pyproxy ] || exit 0
# kustomize takes no folder from elsewhere by its absolute path
overlay=$(mktemp -d)
trap 'rm -rf "$overlay"' EXIT
cp -a "$checkout/deploy" "$overlay/deploy"
kustomization >"$overlay/kustomization.yaml"
own_image >"$overlay/own-image.yaml"
kube_proxy_configuration "" >"$overlay/config.conf"
kubectl_here apply -k "$overlay"
