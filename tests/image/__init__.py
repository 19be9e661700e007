# SPDX-License-Identifier: Apache-2.0
"""Tests of the image: what is in its root file system, and an agent that runs in it."""
