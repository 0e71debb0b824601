"""Texts of files: lines, JSON and YAML. Whatever is wrong with them becomes one sentence with file, place and mend."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.errors import Malformed, UserError
from fastgen.refusals import PathLike, reading, reason_of, refuse_special

if TYPE_CHECKING:
    from yaml import Node

DEPTH = 64
"""Values in values that a file may hold; more is an attack or an accident, and would end later in a recursion."""
NODES = 100_000
"""Values of a YAML file, each counted as often as aliases repeat it."""
OTHER_MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
"""Byte-order marks of encodings that are not UTF-8."""


def decode(data: bytes) -> str:
    """UTF-8, with or without a byte-order mark.

    Raises:
        Malformed: If it is something else; the place is said.
    """
    if found := next((name for mark, name in OTHER_MARKS if data.startswith(mark)), None):
        raise Malformed(f"it is {found}, not UTF-8; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Malformed(f"it is not UTF-8, as seen in line {line}; save it as UTF-8") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise Malformed(f"it holds a NUL in line {line}; save it as plain text in UTF-8")
    return text


def read_text(path: PathLike) -> str:
    """The text of an ordinary UTF-8 file; line ends stay as they are.

    Raises:
        UserError: If it cannot be read or is something else.
    """
    refuse_special(path)
    with reading(path):
        data = Path(path).read_bytes()
    try:
        return decode(data)
    except Malformed as error:
        raise UserError(f"'{path}' is no text: {error}.") from error


def lines_of(text: str) -> list[tuple[int, str]]:
    r"""The lines that are not blank, stripped, with their numbers from 1.

    Only ``\n`` and ``\r\n`` end a line: the other separators of ``str.splitlines`` (form feed, next line, U+2028 and
    so on) occur inside of prompts that were copied from somewhere. Marks of byte order, as joined files have in their
    middle, are no content.
    """
    stripped = ((number, line.strip().strip("\ufeff").strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in stripped if line]


def parse_json(text: str) -> Any:
    """A JSON value of at most ``DEPTH`` levels whose texts can be written.

    Raises:
        Malformed: If it is something else, or an object has a key twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise Malformed(f"it is not JSON, as seen at {place}") from error
    except RecursionError as error:
        raise Malformed(f"it is nested more than {DEPTH} levels deep") from error
    except Malformed:
        raise
    except ValueError as error:  # Python refuses to convert thousands of digits
        raise Malformed("it holds a number of thousands of digits") from error
    _check(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Malformed(f"it has '{next(name for name in names if names.count(name) > 1)}' twice in one object")
    return found


def _check(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        texts = [part for part in level if isinstance(part, str)]
        texts += [key for part in level if isinstance(part, dict) for key in part]
        for text in texts:
            if re.search("[\ud800-\udfff]", text):
                raise Malformed("it holds half of a character (a lone surrogate)")
        level = [
            inner
            for part in level
            if isinstance(part, dict | list)
            for inner in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return
    raise Malformed(f"it is nested more than {DEPTH} levels deep")


def read_json(path: PathLike, mend: str) -> Any:
    """The JSON value in a file.

    Args:
        path: The file.
        mend: What to do about a bad one; ends the sentence.

    Raises:
        UserError: If it cannot be read or is no JSON.
    """
    try:
        return parse_json(read_text(path))
    except Malformed as error:
        raise UserError(f"'{path}' is damaged ({error}); {mend}.") from error


def read_yaml(path: PathLike) -> Any:
    """The values of a YAML file, built of plain types only.

    Raises:
        UserError: If it cannot be read, is no YAML, has a key twice, refers to itself or grows beyond measure.
    """
    import yaml

    text = read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _count(root, {}, 0)
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "its end"
        mend = "mend its brackets, colons or indentation"
        raise UserError(f"'{path}' is not YAML, as seen at {place}; {mend}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"'{path}' is not YAML, because it holds unprintable characters; remove them.") from error
    except RecursionError as error:
        raise UserError(f"'{path}' is nested more than {DEPTH} levels deep; mend it.") from error
    except Malformed as error:
        raise UserError(f"'{path}' cannot be used, because {error}.") from error
    except ValueError as error:
        reason = f"a date or number that does not exist ({reason_of(error)})"
        raise UserError(f"'{path}' holds {reason}; mend it or write it in quotes.") from error


def _count(node: Node, known: dict[int, int], depth: int) -> int:
    """The values at and below ``node``, each as often as it is used; those that are not finished are 0 in ``known``.

    Raises:
        Malformed: If the node holds itself, has a key twice, is too deep or too much.
    """
    import yaml

    place = f"as seen at line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"
    if id(node) in known:
        if known[id(node)] == 0:
            raise Malformed(f"it holds itself by an alias, {place}; write the values out")
        return known[id(node)]
    if depth > DEPTH:
        raise Malformed(f"it is nested more than {DEPTH} levels deep, {place}; mend it")
    known[id(node)] = 0
    inner: list[Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise Malformed(f"it has '{twice}' twice in the mapping {place.removeprefix('as seen ')}; remove one")
        inner = [part for pair in node.value for part in pair]
    total = 1 + sum(_count(part, known, depth + 1) for part in inner)
    if total > NODES:
        raise Malformed(f"its aliases make more than {NODES:,} values of it, {place}; write the values out")
    known[id(node)] = total
    return total
