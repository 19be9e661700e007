# SPDX-License-Identifier: Apache-2.0
"""Pure planning: objects in, tables out. Standard library, model and tables only."""
