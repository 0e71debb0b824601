"""Small text files: prompts and metadata."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from fastgen.errors import UserError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank, stripped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"'{path}' cannot be read as UTF-8 text ({error}); save it as UTF-8.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a ``.csv`` file with a header line or of a ``.jsonl`` file, values as text.

    Raises:
        UserError: If the file is neither, or a line of it is broken.
    """
    lines = read_lines(path)
    if path.suffix == ".csv":
        return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(lines)]
    if path.suffix != ".jsonl":
        raise UserError(f"'{path}' is neither .csv nor .jsonl; convert it or rename it.")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"Record {number} of '{path}' is not JSON ({error}); mend or delete it.") from error
        if not isinstance(row, dict):
            raise UserError(f"Record {number} of '{path}' is not a JSON object; write {{\"key\": value}}.")
        rows.append({key: str(value) for key, value in row.items()})
    return rows


def first_column(rows: Sequence[dict[str, str]], names: Sequence[str]) -> str | None:
    """The first of ``names`` that the rows have, ``None`` if they have none of them."""
    return next((name for name in names if rows and name in rows[0]), None)


def column(rows: Sequence[dict[str, str]], name: str, path: Path) -> list[str]:
    """The values of a column.

    Raises:
        UserError: If a row has no value there.
    """
    for number, row in enumerate(rows, start=1):
        if not row.get(name):
            raise UserError(f"Record {number} of '{path}' has no '{name}'; add it or delete the record.")
    return [row[name] for row in rows]
