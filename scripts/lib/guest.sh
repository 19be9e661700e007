#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# guest.sh CHECKOUT SHARED SERIES [PYTEST_ARGUMENT...]: runs inside the virtual machine of the
# kernels layer. The root file system is the host's, read-only; SHARED can be written. The tests
# marked `kernel` of the files that SHARED/files names run.
set -u
checkout=$1 shared=$2
export PYPROXY_GUEST=$3 PYPROXY_TEST_PROGRAMS=$2/programs
shift 3

uname -r >"$shared/release"
export HOME=/tmp PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis
cd "$checkout" || exit 1
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
# Everything is 24 to 36 times slower than natively, and so are the tests' own limits.
mapfile -t files <"$shared/files"
"$checkout/.venv/bin/python" -m pytest -m kernel "${files[@]}" \
    -p no:cacheprovider -o timeout=1800 -o junit_family=xunit1 \
    --junitxml="$shared/report.xml" "$@" >"$shared/log" 2>&1 </dev/null
echo $? >"$shared/exit"
sync
