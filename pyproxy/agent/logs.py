# SPDX-License-Identifier: Apache-2.0
"""What the agent logs, as text or as one JSON object a line, on stderr.

The levels are Kubernetes': what is of use to an operator has verbosity 0, and what helps to find
a fault 4, which is where DEBUG begins. JSON has the keys of Kubernetes' own (ts in milliseconds,
caller, msg, v for what is no error, err for what is one).
"""

from __future__ import annotations

import fnmatch
import json
import logging
import sys
from typing import Any

from pyproxy.kube.proxylogging import LogSettings

TEXT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
DEBUG_FROM = 4


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        made: dict[str, Any] = {
            "ts": round(record.created * 1000, 3),
            "caller": f"{record.filename}:{record.lineno}",
            "logger": record.name,
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
        }
        if record.levelno < logging.ERROR:
            made["v"] = 0 if record.levelno > logging.DEBUG else DEBUG_FROM
        if record.exc_info:
            made["err"] = self.formatException(record.exc_info)
        return json.dumps(made)


class Verbosity(logging.Filter):
    """Lets DEBUG pass for the modules that are to say so much."""

    def __init__(self, settings: LogSettings) -> None:
        super().__init__()
        self._settings = settings

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be logged."""
        return record.levelno > logging.DEBUG or self._of(record.module) >= DEBUG_FROM

    def _of(self, module: str) -> int:
        for pattern, verbosity in self._settings.vmodule:
            if fnmatch.fnmatchcase(module, pattern):
                return verbosity
        return self._settings.verbosity


class StderrHandler(logging.StreamHandler[Any]):
    """Writes to what is stderr at the moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Where to write."""
        return sys.stderr


def configure(settings: LogSettings) -> None:
    """Log by these settings from now on; may be called again."""
    root = logging.getLogger()
    former = [each for each in root.handlers if isinstance(each, StderrHandler)]
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if settings.json else logging.Formatter(TEXT))
    handler.addFilter(Verbosity(settings))
    root.addHandler(handler)
    for each in former:
        root.removeHandler(each)
    most = max((settings.verbosity, *(number for _, number in settings.vmodule)))
    root.setLevel(logging.INFO)
    # the libraries' own is never asked for
    logging.getLogger("pyproxy").setLevel(logging.DEBUG if most >= DEBUG_FROM else logging.INFO)
