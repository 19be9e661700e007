# SPDX-License-Identifier: Apache-2.0
"""What pyproxy costs and how fast it follows: `scripts/bench`.

    command line -> catalogue of measures -> figures -> table and JSON

`intervals`, `figures`, `rounds`, `ruleset` and `chains` are pure; `load` drives the C programs of
`load/`, which `build` compiles; `attachment` takes the agent's programs off and on, `nftables` and
`iptables` kube-proxy's rules (what both share is in `netfilter`); `objects` makes Services and
slices, `dialled` the one that is called, `agents` who serves them, `following` an API server for
the agent. `comparison` lets windows of several states take turns: `rates` (sockets), `packets` and
`nodeports` are tables of its cases; `peers` has latencies, first packets and CPU time (`cputime`)
by state. `nanoseconds` times single packets, which `conversations` makes
and `rewind` makes anew for each run, `traffic` what the kernel counts (`runstats`). `programming`,
`startup` and `memory` are the other measures; a new one goes into `catalogue`.

    JSON of runs -> runs -> noise -> page with pictures: `scripts/bench report` (`reporting`)
"""
