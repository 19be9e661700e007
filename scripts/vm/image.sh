#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds pyproxy's image out of this checkout and gives it to containerd; each node builds its own, so
# that no registry is needed.
set -euo pipefail
# shellcheck source=scripts/vm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

build() {
    local built=$1 name=$2
    logged "the image cannot be built" buildah bud --isolation chroot --layers -t "$name" "$checkout"
    logged "is there room left? (df -h)" buildah push "$name" "docker-archive:$built/image.tar:$name"
    logged "is containerd up? (systemctl status containerd)" \
        ctr --namespace k8s.io images import "$built/image.tar"
}

[ "$PROXY" = pyproxy ] || exit 0
# containerd's name of what a pod calls pyproxy:TAG
name=docker.io/library/pyproxy:$(image_tag)
[ -z "$(ctr --namespace k8s.io images list -q "name==$name")" ] || exit 0
need_packages buildah
say "building $name"
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
build "$built" "$name"
