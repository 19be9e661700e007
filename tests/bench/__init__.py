# SPDX-License-Identifier: Apache-2.0
"""What pyproxy costs and how fast it follows: `scripts/bench`.

    command line -> catalogue of measures -> figures -> table and JSON

`intervals`, `figures` and `pairs` are pure; `load` drives the C programs of `load/`, which
`build` compiles; `attachment` takes the agent's programs off and on; `objects` writes the
manifests. `rates`, `programming` and `startup` are the measures; a new one goes into
`catalogue`, a new datapath comparison is a `Case` of `rates`.
"""
