#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A worker: kubeadm join.
set -euo pipefail
# shellcheck source=scripts/vm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/vm/kubeadm.sh
. "$vm/kubeadm.sh"

kubeadm_once join
