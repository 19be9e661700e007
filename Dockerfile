# SPDX-License-Identifier: Apache-2.0
#
# The agent's image: docker build -t pyproxy:VERSION . (VERSION: pyproxy/__init__.py). What is in
# it, how large that is and what was left out, and why: docs/image.md.
#
# It is Debian's, since bcc is no package of PyPI, and its compiler is of one version with it.
# Python's packages are those of scripts/lock/runtime.txt, by hash; Debian's are scripts/lock/debian.txt's.
ARG BASE=debian:12-slim

# Python's part; pip and what builds our own package stay behind in this stage.
# PIP_CONFIG_FILE: where packages are, if not on PyPI; the lock's hashes hold all the same.
FROM ${BASE} AS python
ARG PIP_CONFIG_FILE
RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-unsafe-io \
        install --no-install-recommends python3-venv python3-wheel
COPY scripts/lock/runtime.txt scripts/lib/image_python.sh pyproject.toml README.md /tmp/build/
COPY pyproxy /tmp/build/pyproxy
COPY bpf /tmp/build/bpf
RUN sh /tmp/build/image_python.sh /tmp/build /opt/pyproxy

# Debian's part, without what only installing and people need.
FROM ${BASE} AS whole
COPY scripts/lock/debian.txt scripts/lib/image_strip.sh /tmp/build/
RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-unsafe-io \
        install --no-install-recommends $(grep -v '^#' /tmp/build/debian.txt) \
    && sh /tmp/build/image_strip.sh

# From nothing: what a further layer only removes would still be pulled to every node.
FROM scratch
COPY --from=whole / /
COPY --from=python /opt/pyproxy /opt/pyproxy
# no bytecode: what is not there is not written either
ENV PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
# root: bpf(2) gives the types of pinned maps to nobody else (SECURITY.md). Which capabilities of
# root's it keeps is the pod's to say.
USER 0:0
ENTRYPOINT ["pyproxy"]
CMD ["run"]
