"""Lines of JSON as runs and judges write them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from fastgen.errors import Malformed
from fastgen.storage.documents import lines_of, parse_json


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a ``.jsonl`` file and how many other lines there are (cut short by a crash, or damaged).

    A file that does not exist has no lines.
    """
    if not path.is_file():
        return [], 0
    try:
        lines = lines_of(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return [], 1
    found: list[dict[str, Any]] = []
    for _, line in lines:
        with contextlib.suppress(Malformed):
            value = parse_json(line)
            if isinstance(value, dict):
                found.append(value)
    return found, len(lines) - len(found)
