"""Progress bars for terminals of any kind and for log files."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

from tqdm import tqdm

TERMINAL_SECONDS, FILE_SECONDS = 0.2, 30.0
"""Seconds between refreshes on a terminal and in a log file."""
COLUMNS, ROWS = 100, 20
"""Size of a terminal that does not know its own."""


class Lines:
    """A log file in which every state of a bar is a line of its own, and none is written twice in a row."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        """Write without the marks that move a cursor."""
        line = text.replace("\x1b[A", "").strip("\r\n ")
        if line and line != self._last:
            self.stream.write(line + "\n")
            self._last = line

    def flush(self) -> None:
        """Flush the file."""
        self.stream.flush()


def refresh_seconds() -> float:
    """Seconds between refreshes of a bar."""
    return TERMINAL_SECONDS if sys.stderr.isatty() else FILE_SECONDS


def where() -> dict[str, Any]:
    """Where a bar is shown and how wide; tqdm shows nothing on a terminal that says it has no columns."""
    if not sys.stderr.isatty():
        return {"file": Lines(sys.stderr)}
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        known = False
    return {"file": sys.stderr, **({"dynamic_ncols": True} if known else {"ncols": COLUMNS, "nrows": ROWS})}


def bar(*iterable: Any, **options: Any) -> tqdm:
    """A bar on stderr; ``options`` are those of ``tqdm``."""
    return tqdm(*iterable, **({"mininterval": refresh_seconds()} | where() | options))
