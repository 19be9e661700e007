#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Applies pyproxy's DaemonSet (deploy/) with the image that the nodes build, and with the API server's
# address. The modes of kube-proxy are kubeadm's business (kubeadm.sh).
set -euo pipefail
# shellcheck source=scripts/vm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kustomization() {
    cat <<CONF
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [deploy]
images:
  - {name: pyproxy, newTag: "$(image_tag)"}
patches:
  - target: {kind: DaemonSet, name: pyproxy}
    patch: |
      apiVersion: apps/v1
      kind: DaemonSet
      metadata: {name: pyproxy}
      spec:
        template:
          spec:
            containers:
              - name: pyproxy
                # every node has built its own
                imagePullPolicy: Never
                env:
                  - {name: KUBERNETES_SERVICE_HOST, value: "$control_ipv4"}
                  - {name: KUBERNETES_SERVICE_PORT, value: "6443"}
CONF
}

[ "$PROXY" = pyproxy ] || exit 0
# kustomize takes no folder from elsewhere by its absolute path
overlay=$(mktemp -d)
trap 'rm -rf "$overlay"' EXIT
cp -a "$checkout/deploy" "$overlay/deploy"
kustomization >"$overlay/kustomization.yaml"
kubectl_here apply -k "$overlay"
