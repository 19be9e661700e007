#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# On the control plane, once all machines are up: does the proxy that was asked for serve the cluster?
# For pyproxy the end-to-end tests answer; for the modes of kube-proxy, on every node, their own
# word and a service; with none no service may answer. WORKERS says how many there have to be.
set -euo pipefail
# shellcheck source=scripts/vm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

settings=$root$state/settings
[ -e "$settings" ] || die "$settings is missing: run this on the control plane (vagrant ssh control)"
# shellcheck source=/dev/null
. <(tr ' ' '\n' <"$settings")

all_nodes_are_ready() {
    local nodes ready wanted
    nodes=$(kubectl_here get nodes --no-headers) || return
    ready=$(awk '$2 == "Ready"' <<<"$nodes" | wc -l)
    wanted=${WORKERS:+$((WORKERS + 1))}
    wanted=${wanted:-$(wc -l <<<"$nodes")}
    echo "$ready of $wanted nodes are ready (kubectl get nodes)"
    [ "$ready" -ge "$wanted" ]
}

# rolled_out KIND/NAME: on all nodes.
rolled_out() {
    logged "see kubectl --namespace kube-system describe $1" \
        kubectl_here --namespace kube-system rollout status "$1" --timeout 600s
}

# The API server by its service: a ClusterIP that each cluster has.
service_answers() { curl -ksS --max-time 5 "https://$first_service/livez"; }

has_no() {
    [ -z "$(kubectl_here --namespace kube-system get daemonset "$1" --ignore-not-found -o name)" ] ||
        die "there is a DaemonSet $1, with PROXY=$PROXY"
}

# Asked anew each time, since a roll-out leaves agents that are about to end.
all_agents_are_well() {
    local pod pods
    pods=$(kubectl_here --namespace kube-system get pods -o name \
        --selector app.kubernetes.io/name=pyproxy) || return
    [ -n "$pods" ] || return
    for pod in $pods; do
        echo "$pod:"
        kubectl_here --namespace kube-system exec "$pod" -- pyproxy status || return
    done
}

check_pyproxy() {
    has_no kube-proxy
    rolled_out daemonset/pyproxy
    wait_for 120 "pyproxy status" all_agents_are_well
    wait_for 60 "the service at $first_service" service_answers
    rolled_out deployment/coredns
    need_packages python3-bpfcc iproute2
    make_venv dev
    (cd "$checkout" && "$venv/bin/python" -m pytest -q -p no:cacheprovider tests/e2e \
        --kubeconfig "$root/etc/kubernetes/admin.conf" --image "$TEST_IMAGE")
}

check_kube_proxy() {
    local mode
    has_no pyproxy
    rolled_out daemonset/kube-proxy
    mode=$(curl -sS --max-time 5 http://127.0.0.1:10249/proxyMode)
    [ "$mode" = "$PROXY" ] || die "kube-proxy runs in mode $mode, and PROXY=$PROXY"
    wait_for 60 "the service at $first_service" service_answers
    rolled_out deployment/coredns
}

check_none() {
    has_no pyproxy
    has_no kube-proxy
    ! service_answers >/dev/null 2>&1 || die "the service at $first_service answers, with PROXY=none"
}

wait_for 900 "the nodes" all_nodes_are_ready
case $PROXY in
pyproxy) check_pyproxy ;;
none) check_none ;;
*) check_kube_proxy ;;
esac
say "PROXY=$PROXY: well"
