# SPDX-License-Identifier: Apache-2.0
"""python -m pyproxy, and the pyproxy command."""

from __future__ import annotations

import sys

from pyproxy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
