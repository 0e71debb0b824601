"""Lines of JSON as runs and judges write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a ``.jsonl`` file and how many other lines there are (cut short by a crash, or damaged).

    A file that does not exist has no lines.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [], 0
    found: list[dict[str, Any]] = []
    for line in filter(str.strip, lines):
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found, sum(bool(line.strip()) for line in lines) - len(found)
