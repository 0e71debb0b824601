"""Type hints against plain data: whether a value fits one, and how a sentence calls what would."""

from __future__ import annotations

import collections.abc
import contextlib
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from fastgen.configuration.declared import slot_of
from fastgen.configuration.given import Word

NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    type(None): "null",
    dict: "a mapping",
    list: "a list",
}


def members(hint: Any) -> list[Any]:
    """The members of a union, those of unions within it too; else the hint itself."""
    if get_origin(hint) is Annotated:
        return members(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [member for part in get_args(hint) for member in members(part)]
    return [hint]


def suits(value: Any, hint: Any, shallow: bool = False) -> bool:
    """Whether a value may stand where ``hint`` is declared; what is not understood may.

    Args:
        value: Plain data.
        hint: The declared type.
        shallow: Whether only the kind counts, not what a list or mapping holds, nor which class is named.
    """
    return any(_suits(value, member, shallow) for member in members(hint))


def _suits(value: Any, hint: Any, shallow: bool) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(value, Word):
        read: Any = value
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
            read = yaml.safe_load(value)
        if value.strip() and not isinstance(read, str) and _suits(read, hint, shallow):  # nothing is not null
            return True
    if origin is Literal:
        return any(
            (value == choice and type(value) is type(choice)) or (isinstance(value, Word) and value == str(choice))
            for choice in arguments
        )
    kind = origin or hint
    if kind is bool:
        return isinstance(value, bool) or str(value).lower() in ("true", "false", "yes", "no", "on", "off")
    if kind in (int, float):
        return is_number(value, whole=kind is int)
    if kind is type(None):
        return value is None
    if isinstance(kind, type) and issubclass(kind, str | os.PathLike):
        return isinstance(value, str | Path)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if kind in (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable):
        return isinstance(value, list | tuple) and (
            shallow or not arguments or all(suits(part, arguments[0]) for part in value)
        )
    if slot_of(hint).classes:
        return isinstance(value, Mapping) and "class_path" in value
    return True


def is_number(value: Any, whole: bool) -> bool:
    """Whether it is a number, or the text of one."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return not whole or value == value // 1
    try:
        int(value) if whole else float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def described(hint: Any) -> str:
    """What may stand where ``hint`` is declared, e.g. ``a number or null``."""
    words: list[str] = []
    kinds: list[str] = []
    for member in members(hint):
        origin, arguments = get_origin(member), get_args(member)
        kind = origin or member
        if origin is Literal:
            words.append("one of " + ", ".join(map(str, arguments)))
        elif kind in NAMES and not arguments:
            words.append(NAMES[kind])
        elif isinstance(kind, type) and issubclass(kind, os.PathLike):
            words.append("a path")
        elif isinstance(kind, type) and issubclass(kind, Mapping):
            words.append("a mapping")
        elif kind in (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable):
            inner = " and ".join(dict.fromkeys(described(part) for part in arguments if part is not Ellipsis))
            words.append(f"a list (each {inner})" if inner else "a list")
        else:
            kinds += [k.__name__ for k in slot_of(member).classes if k.__name__ != "Tensor"]  # which only code can make
    if kinds:
        words.append(f"a class ({' or '.join(dict.fromkeys(kinds))})")
    said = list(dict.fromkeys(words))
    if "null" in said:
        said = [*(word for word in said if word != "null"), "null"]
    return " or ".join(said) or "something else"
