# SPDX-License-Identifier: Apache-2.0
"""The Vagrantfile, and what can be run of scripts/vm without virtual machines."""
