# SPDX-License-Identifier: Apache-2.0
"""pyproxy: kube-proxy's job done by eBPF."""

__version__ = "0.1.0"
