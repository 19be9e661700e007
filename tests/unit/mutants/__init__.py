# SPDX-License-Identifier: Apache-2.0
"""The search for mutants, and what is made of their trials."""
