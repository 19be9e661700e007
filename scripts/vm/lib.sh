# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2034  # those that source this read them
#
# Sourced by the scripts of this folder, which run as root in a virtual machine; the Vagrantfile gives
# them PROXY, KUBERNETES, NODE_NUMBER and JOIN_TOKEN. Each of them may run again at any time, also
# where it has broken off, and changes nothing that is as it should be.

vm=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib/setup.sh
. "$vm/../lib/setup.sh"
# what the Vagrantfile gives wins over the pinned version
given_kubernetes=${KUBERNETES:-}
# shellcheck source=scripts/vm/versions.env
. "$vm/versions.env"
KUBERNETES=${given_kubernetes:-$KUBERNETES}

# Where files of the system are: the tests name a folder. They also set VM_WAIT_S, the seconds of
# all waits.
root=${VM_ROOT:-}
state=/etc/pyproxy-vm

# Both families, since the end-to-end tests want both. Nodes: .10 and ::10 are the control plane's.
control_ipv4=192.168.56.10
pods_ipv4=10.244.0.0/16 pods_ipv6=fd00:10:244::/56
services_ipv4=10.96.0.0/16 services_ipv6=fd00:10:96::/112
# the service `kubernetes` is the first address of its range
first_service=10.96.0.1

node_ipv4() { echo "192.168.56.$((10 + NODE_NUMBER))"; }
node_ipv6() { echo "fd00:56::$((10 + NODE_NUMBER))"; }

# put FILE [MODE]: makes FILE hold the text on stdin; one that is right is not touched, and one that is
# cut short never stands there.
put() {
    local file=$root$1 new text was=
    IFS= read -r -d '' text || true
    if [ -e "$file" ]; then
        IFS= read -r -d '' was <"$file" || true
        [ "$was" != "$text" ] || return 0
    fi
    mkdir -p "${file%/*}"
    new=$(mktemp "$file.XXXXXX")
    printf '%s' "$text" >"$new"
    chmod "${2:-644}" "$new"
    mv "$new" "$file"
}

# once_with FILE COMMAND...: runs the command, unless it has succeeded with what FILE holds now.
once_with() {
    local seen=$state/done${1//\//-}
    ! cmp -s "$root$1" "$root$seen" || return 0
    "${@:2}"
    put "$seen" 600 <"$root$1"
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds; shows what it said last if it never does.
wait_for() {
    local limit=${VM_WAIT_S:-$1} what=$2 said
    local end=$((SECONDS + limit))
    shift 2
    until said=$("$@" 2>&1 </dev/null); do
        [ "$SECONDS" -lt "$end" ] || die "$what: not within $limit s: ${said:-no answer}"
        sleep 2
    done
}

kubectl_here() { kubectl --kubeconfig "$root/etc/kubernetes/admin.conf" "$@"; }

# A tag that names the source: the same on every node, and another one after a change, so that the
# DaemonSet is rolled out by it.
image_tag() {
    local version hash
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$checkout/pyproxy/__init__.py")
    [ -n "$version" ] || die "pyproxy/__init__.py names no __version__"
    # what the Dockerfile copies; of scripts/lib that is image_*
    hash=$(cd "$checkout" && find Dockerfile pyproject.toml pyproxy bpf scripts/lock scripts/lib \
        -type f ! -name '*.pyc' \( ! -path 'scripts/lib/*' -o -name 'image_*' \) -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)
    echo "$version-${hash:0:12}"
}
