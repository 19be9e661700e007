# SPDX-License-Identifier: Apache-2.0
"""Tests of the tests' own API server: others' tests are only as exact as it is."""
