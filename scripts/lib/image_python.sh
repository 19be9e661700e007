#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# image_python.sh SOURCE VENV: runs while the image is built. Makes VENV of the
# locked packages and pyproxy with its C sources; takes out what no part of the agent imports, pip too; compiles Python's bytecode.
set -eu
source=$1 venv=$2

python3 -m venv --system-site-packages "$venv"
"$venv/bin/pip" install -q --no-compile --no-deps --only-binary :all: --require-hashes \
    -r "$source/runtime.txt"
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

"$venv/bin/pip" install -q --no-compile --no-deps --no-build-isolation "$source"
cp -r "$source/bpf" "$packages/pyproxy/bpf"

# Of the kubernetes package the agent uses credentials and transport. Not the calls, which it makes
# itself, nor the second client, for asyncio, with what only that one needs.
rm -r "$packages/kubernetes/aio" "$packages/kubernetes/client/api"
"$venv/bin/pip" uninstall -q -y aiohttp aiohttp-retry aiohappyeyeballs aiosignal frozenlist \
    multidict propcache yarl
"$venv/bin/pip" uninstall -q -y setuptools pip
rm -rf "$venv/include" "$venv"/bin/[aA]ctivate*

# The root file system is read-only, so that a start could not keep what it compiles. Files are
# never changed in an image: nothing has to be compared with its source. The API's models are not
# imported, nor pygments' lexers: 20 MB that would never be read.
"$venv/bin/python" -m compileall -q --invalidation-mode unchecked-hash \
    -x '/kubernetes/client/models/|/pygments/lexers/' "$packages"
