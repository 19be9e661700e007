# SPDX-License-Identifier: Apache-2.0
"""Clusters out of network namespaces, for the demo, the end-to-end tests and the benchmarks.

Start at cluster.py: `with Cluster() as cluster:` gives nodes, pods, a client outside and, by
`cluster.agent(node)`, real agents.
"""
