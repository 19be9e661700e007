# SPDX-License-Identifier: Apache-2.0
"""The composition root: one process on one node."""
