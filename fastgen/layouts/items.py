"""Prompts with the names and metadata that a judge knows them by."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from fastgen.data.prompts import read_prompts
from fastgen.data.tables import read_lines, read_table
from fastgen.errors import Malformed, UserError
from fastgen.storage.documents import lines_of, parse_json, read_text
from fastgen.storage.files import resolve


@dataclass(frozen=True)
class Item:
    """One prompt.

    Attributes:
        name: What the judge calls it; names its file or folder.
        prompt: The text.
        record: The line of the prompts file, to be copied through; empty if the judge needs none.
    """

    name: str
    prompt: str
    record: str = ""


def numbered(path: str) -> list[Item]:
    """A file of prompts (``.txt``, ``.jsonl``, ``.csv`` or ``.tsv``), numbered ``00000``, ``00001``, ..."""
    return [Item(f"{number:05d}", prompt) for number, prompt in enumerate(read_prompts(path))]


def geneval_items(path: str) -> list[Item]:
    """GenEval's ``evaluation_metadata.jsonl``: objects with ``tag``, ``include`` and ``prompt``, kept line by line.

    Raises:
        UserError: If a line is no such object.
    """
    items: list[Item] = []
    for line, text in lines_of(read_text(file_of(path))):
        with contextlib.suppress(Malformed):
            record = parse_json(text)
            if isinstance(record, dict) and "tag" in record and usable(record.get("prompt")):
                items.append(Item(f"{len(items):05d}", record["prompt"], text))
                continue
        raise UserError(
            f"Line {line} of '{path}' is no object with 'tag' and 'prompt'; give GenEval's "
            "prompts/evaluation_metadata.jsonl."
        )
    return some(items, path)


def usable(prompt: object) -> bool:
    """Whether something is a text that can be a prompt."""
    return isinstance(prompt, str) and bool(prompt.strip()) and "\0" not in prompt


def dpg_items(path: str) -> list[Item]:
    """DPG-Bench's folder ``prompts/`` with one ``<item id>.txt`` per prompt, or its ``dpg_bench.csv``.

    The table has one row per question; the columns ``item_id`` and ``text`` are read, named as in
    ``compute_dpg_bench.py``.

    Raises:
        UserError: If it is neither.
    """
    source = resolve(path)
    if source.is_dir():
        files = sorted(source.glob("*.txt"), key=lambda file: (len(file.stem), file.stem))
        return some([Item(item_id(file.stem, path), " ".join(read_lines(file))) for file in files], path)
    if source.suffix.lower() != ".csv":
        raise UserError(f"'{path}' is neither a folder of .txt files nor a .csv; give DPG-Bench's prompts/ folder.")
    table = read_table(source)
    if not table.rows or not {"item_id", "text"} <= table.rows[0][1].keys():
        raise UserError(f"'{path}' lacks the columns 'item_id' and 'text'; give DPG-Bench's dpg_bench.csv.")
    texts: dict[str, str] = {}
    for _, row in table.rows:
        if row.get("item_id") and row.get("text"):
            texts.setdefault(row["item_id"], " ".join(row["text"].split()))
    return some([Item(item_id(name, path), text) for name, text in texts.items()], path)


def item_id(name: str, path: str) -> str:
    """The name if the judge can find it again: it takes the file name up to the first dot.

    Raises:
        UserError: If not.
    """
    if not re.fullmatch(r"[\w\- ]+", name):
        raise UserError(f"'{name}' in '{path}' cannot name a picture of DPG-Bench; use letters, digits, '_' and '-'.")
    return name


def file_of(path: str) -> Path:
    """An existing file.

    Raises:
        UserError: If there is none.
    """
    file = resolve(path)
    if not file.is_file():
        raise UserError(f"'{path}' is not a file; give a file with prompts.")
    return file


def some(items: list[Item], path: str) -> list[Item]:
    """The items, if there are any.

    Raises:
        UserError: If there are none, or a prompt is empty.
    """
    if not items:
        raise UserError(f"'{path}' holds no prompt.")
    if empty := next((item.name for item in items if not item.prompt), None):
        raise UserError(f"Prompt '{empty}' in '{path}' is empty; write it or delete it.")
    return items
