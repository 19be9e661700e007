# SPDX-License-Identifier: Apache-2.0
"""From wanted tables to writes: ids, slots, order of writes, adoption at start."""
