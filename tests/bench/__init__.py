# SPDX-License-Identifier: Apache-2.0
"""What pyproxy costs and how fast it follows: `scripts/bench`.

    command line -> catalogue of measures -> figures -> table and JSON

`intervals`, `figures`, `rounds` and `ruleset` are pure; `load` drives the C programs of `load/`,
which `build` compiles; `attachment` takes the agent's programs off and on, `nftables` kube-proxy's
rules; `objects` makes Services and slices, `dialled` the one that is called, `following` an API
server for the agent. `comparison` lets windows of several states take turns: `rates` (sockets)
and `packets` are tables of its cases. `programming`, `startup` and `memory` are the other
measures; a new one goes into `catalogue`.
"""
