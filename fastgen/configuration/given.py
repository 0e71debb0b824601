"""What a command line and its config files say, merged as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastgen.storage.documents import read_yaml

OF_CLASSES = ("class_path", "init_args", "dict_kwargs")
"""The keys of a class with its arguments."""


class Word(str):
    """A value on the command line, which may stand for a number, a list or a mapping."""


def given(words: Sequence[str], flags: Sequence[str] = ()) -> dict[str, Any]:
    """The options of a command by name; those of several configs are merged from left to right.

    Args:
        words: The command line after the command.
        flags: Options, without ``--``, that take no value.

    Raises:
        UserError: If a config cannot be read.
    """
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            continue
        name = name.removeprefix("--")
        if not equals and name not in flags and rest and not rest[0].startswith("--"):
            value, equals = rest.pop(0), "="
        if not equals:
            continue
        if name == "config":
            contents = read_yaml(value)
            found = merged(found, contents) if isinstance(contents, Mapping) else found
        else:
            put(found, name.split("."), Word(value))
    return found


def merged(old: Any, new: Any) -> Any:
    """``new`` over ``old``; the arguments of another class are dropped, lists are replaced."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    if "class_path" in new and old.get("class_path") != new["class_path"]:
        return new
    return {**old, **{key: merged(old[key], value) if key in old else value for key, value in new.items()}}


def put(place: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set what an option with dots names: ``class_path`` and ``init_args`` may be left out of it."""
    name, *rest = path
    if name not in OF_CLASSES and "class_path" in place:
        place["init_args"] = place = dict(place.get("init_args") or {})
    name, adds = name.removesuffix("+"), name.endswith("+")
    if not rest:
        place[name] = [*(place.get(name) or []), value] if adds else value
        return
    inner = place.get(name)
    if isinstance(inner, list) and inner:  # options go to the member that was added last
        place[name] = inner = list(inner)
        inner[-1] = opened(inner[-1])
        put(inner[-1], rest, value)
    else:
        place[name] = opened(inner)
        put(place[name], rest, value)


def opened(value: Any) -> dict[str, Any]:
    """A mapping to put options into: a copy, or the class that a text names."""
    if isinstance(value, Mapping):
        return dict(value)
    return {"class_path": str(value)} if isinstance(value, str) else {}
