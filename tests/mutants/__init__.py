# SPDX-License-Identifier: Apache-2.0
"""Flips the comparisons in bpf/ one by one and looks which test notices; see scripts/mutate."""
