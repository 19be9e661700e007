# SPDX-License-Identifier: Apache-2.0
"""Packet cases of kube-proxy and how they become Kubernetes objects."""
