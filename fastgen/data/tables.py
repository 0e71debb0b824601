"""Small text files: prompts and metadata."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgen.errors import Malformed, UserError
from fastgen.storage.documents import lines_of, parse_json, read_text

SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Kinds of tables."""


@dataclass(frozen=True)
class Table:
    """Rows with names.

    Attributes:
        path: The file, to be named in messages.
        rows: Line number and values by column; texts in a ``.csv`` or ``.tsv``, any JSON in a ``.jsonl``.
    """

    path: Path
    rows: Sequence[tuple[int, Mapping[str, Any]]]

    def first(self, names: Sequence[str]) -> str | None:
        """The first of ``names`` that is a column, ``None`` if none is."""
        return next((name for name in names if self.rows and name in self.rows[0][1]), None)

    def column(self, name: str, numbers: bool = False) -> list[str]:
        """The texts of a column, stripped.

        Args:
            name: Of the column.
            numbers: Whether whole numbers are right too, as for labels; they become texts.

        Raises:
            UserError: If a row has no text there: nothing, ``null``, a list and so on.
        """
        return [self._text(line, row, name, numbers) for line, row in self.rows]

    def _text(self, line: int, row: Mapping[str, Any], name: str, numbers: bool) -> str:
        value = row.get(name, "")
        if numbers and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            kind = {type(None): "null", bool: "a truth value", list: "a list", dict: "an object"}.get(type(value))
            raise UserError(
                f"Line {line} of '{self.path}' has {kind or 'a number'} as '{name}'; write text in quotes or delete "
                "the line."
            )
        text = value.strip().strip("\ufeff").strip()
        if not text:
            raise UserError(f"Line {line} of '{self.path}' has no '{name}'; add it or delete the line.")
        if "\0" in text:
            raise UserError(f"Line {line} of '{self.path}' has a NUL in '{name}'; remove it.")
        return text


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank, stripped.

    Raises:
        UserError: If the file is no such text.
    """
    return [line for _, line in lines_of(read_text(path))]


def read_table(path: Path) -> Table:
    """A ``.csv`` or ``.tsv`` file with a header line, or a ``.jsonl`` file. Blank lines are left out.

    Raises:
        UserError: If the file is none of them, or a line of it is broken.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"'{path}' is none of {', '.join(SUFFIXES)}; convert it or rename it.")
    text = read_text(path)
    if kind == ".jsonl":
        return Table(path, _records(text, path))
    return Table(path, _cells(text, path, "," if kind == ".csv" else "\t"))


def _records(text: str, path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in lines_of(text):
        try:
            row = parse_json(line)
        except Malformed as error:
            told = str(error).removeprefix("it ")
            raise UserError(f"Line {number} of '{path}' {told}; mend or delete it.") from error
        if not isinstance(row, dict):
            raise UserError(f"Line {number} of '{path}' is not a JSON object; write {{\"key\": value}}.")
        rows.append((number, row))
    return rows


def _cells(text: str, path: Path, delimiter: str) -> list[tuple[int, Mapping[str, Any]]]:
    # Strict: a quotation mark that is never closed would otherwise make one cell of the rest of the file.
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    rows: list[tuple[int, Mapping[str, Any]]] = []
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                pass
            elif not names:
                names = _header(cells, path)
            elif len(cells) > len(names):
                raise UserError(
                    f"Line {line} of '{path}' has {len(cells)} cells, but the header names {len(names)}; put cells "
                    "that hold the separator in quotes."
                )
            else:
                rows.append((line, {name: cell for name, cell in zip(names, cells, strict=False) if name}))
            line = reader.line_num + 1
    except csv.Error as error:
        reason = str(error).partition(" - ")[0]
        raise UserError(f"Line {line} of '{path}' is broken ({reason}); mend its quotation marks.") from error
    return rows


def _header(cells: Sequence[str], path: Path) -> list[str]:
    names = [cell.strip().strip("\ufeff") for cell in cells]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise UserError(f"'{path}' has two columns '{twice}'; rename or remove one.")
    return names
