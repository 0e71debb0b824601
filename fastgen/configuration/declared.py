"""What the arguments of a class may be, as far as it matters to whoever must not run foreign code."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import os
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

PLAIN = (int, float, bool, str, bytes, complex, type(None), enum.Enum, os.PathLike)
"""Values of these types are data: nothing is built from them and nothing is imported for them."""

CONTAINERS = ("builtins", "collections", "collections.abc")
"""Modules of the types of lists and mappings."""


@dataclass(frozen=True)
class Slot:
    """What may stand at a place of a configuration.

    Attributes:
        classes: A class path names a subclass of one of these.
        open: The declared type says nothing about what is built here (``Any``, a function), so anything could be.
        names: A text is the name of something to import.
        parts: What the elements of a list or the values of a mapping may be; ``None`` if there are none.
        fields: The arguments of a plain dataclass, which needs no class path.
        required: Whether there is no default.
        default: Its default.
        nullable: Whether ``null`` is a value of the declared type.
        hint: The type hint of an option.
    """

    classes: tuple[type, ...] = ()
    open: bool = False
    names: bool = False
    parts: Slot | None = None
    fields: Mapping[str, Slot] = field(default_factory=dict)
    required: bool = False
    default: Any = None
    nullable: bool = True
    hint: Any = Any

    @property
    def built(self) -> tuple[type, ...]:
        """The classes that are built here, alone or in a list."""
        return self.classes + (self.parts.built if self.parts is not None else ())


OPEN = Slot(open=True)


def slot_of(hint: Any) -> Slot:
    """The slot of a type hint; a hint that is not understood is open."""
    hint = hint.__value__ if type(hint).__name__ == "TypeAliasType" else hint  # Python 3.12
    hint = hint.__supertype__ if isinstance(hint, NewType) else hint
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return slot_of(arguments[0])
    if origin is Literal or (isinstance(hint, type) and origin is None and issubclass(hint, PLAIN)):
        return Slot()
    if origin in (Union, types.UnionType):
        return merged([slot_of(argument) for argument in arguments])
    if origin is collections.abc.Callable and arguments:
        made = slot_of(arguments[-1])
        return Slot(made.classes, open=not made.classes, names=True)
    kind = origin or hint
    if kind in (type, types.ModuleType, collections.abc.Callable):
        return Slot(open=True, names=True)
    if isinstance(kind, type) and kind.__module__ in CONTAINERS and issubclass(kind, collections.abc.Iterable):
        inside = [slot_of(argument) for argument in arguments if argument is not Ellipsis]
        return Slot(parts=merged(inside) if inside else OPEN)
    if isinstance(kind, type) and kind not in (object, Any):  # from Python 3.11 on Any is a class too
        return Slot((kind,), names=True)
    return OPEN


def nullable(hint: Any) -> bool:
    """Whether ``None`` is of a declared type; of one that is not understood it may be."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(hint) in (Union, types.UnionType):
        return any(nullable(argument) for argument in get_args(hint))
    if get_origin(hint) is Literal:
        return None in get_args(hint)
    return hint in (Any, object, None, type(None)) or not (isinstance(hint, type) or get_origin(hint))


def merged(slots: list[Slot]) -> Slot:
    """What may stand where any of ``slots`` may."""
    parts = [slot.parts for slot in slots if slot.parts is not None]
    return Slot(
        tuple(dict.fromkeys(kind for slot in slots for kind in slot.classes)),
        any(slot.open for slot in slots),
        any(slot.names for slot in slots),
        merged(parts) if parts else None,
    )


def arguments_of(kind: type) -> Mapping[str, Slot]:
    """The slots of a class's arguments by name, as the parser that builds it will see them."""
    hashable: Any = kind  # which mypy does not see in classes of Lightning
    return _arguments_of(hashable)


@cache
def _arguments_of(kind: type) -> Mapping[str, Slot]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, fail_untyped=False)
    return slots_of(parser, kind)


def slots_of(parser: ArgumentParser, kind: type | None = None) -> Mapping[str, Slot]:
    """The slots of a parser's options by name; those of dataclasses within them."""
    found: dict[str, Any] = {}
    for action in parser._actions:
        hint = getattr(action, "_typehint", inspect.Parameter.empty)
        *groups, name = action.dest.split(".")
        if name == "help" or hint is inspect.Parameter.empty:
            continue
        if type(hint).__name__ == "UnvalidatedType" and is_dataclass(kind):  # the parser does not find it out
            hint = get_type_hints(kind).get(name, hint)
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        slot = slot_of(hint)
        place[name] = replace(
            slot, required=bool(action.required), default=action.default, nullable=nullable(hint), hint=hint
        )
    return nested(found)


def nested(found: Mapping[str, Any]) -> Mapping[str, Slot]:
    """Groups of slots as slots with fields."""
    return {k: v if isinstance(v, Slot) else Slot(fields=nested(v)) for k, v in found.items()}


def subclasses(kind: type) -> Iterator[type]:
    """A class and all that is derived from it so far."""
    yield kind
    derived: type
    for derived in kind.__subclasses__():
        yield from subclasses(derived)
