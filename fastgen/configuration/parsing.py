"""What every parser of configurations refuses, whoever wrote them."""

from __future__ import annotations

import inspect
import json
import sys
from argparse import Action
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from fastgen.configuration.components import Component
from fastgen.configuration.declared import Slot, arguments_of, slot_of, slots_of, subclasses
from fastgen.configuration.diagnosis import in_class
from fastgen.configuration.masking import masked, refuse_masked
from fastgen.configuration.trust import imported
from fastgen.errors import UserError
from fastgen.messages import named, shown

if TYPE_CHECKING:
    Base = ArgumentParser
else:
    Base = object


class ClassesOnly(Base):
    """A parser, also of each class within a configuration, for which a class path names a class.

    The library builds optimizers and networks by calling what a configuration names, with the arguments that it names;
    jsonargparse would call a function just as well.
    """

    def add_function_arguments(self, function: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """A class path turned out to be a function."""
        name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
        raise ImportError(f"Function {name} in place of a class")

    def parse_args(self, args: Any = None, namespace: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """As of the library, but see :func:`named_anew`."""
        words = None if args is None else [written_anew(word, self._actions) for word in args]
        return super().parse_args(words, namespace, *rest, **kwargs)

    def _check_value_key(self, action: Action, value: Any, key: str, cfg: Any, append: bool = False) -> Any:
        if not isinstance(value, Namespace):  # from a file; later it is a class with the arguments that were given
            value = named_anew(action, value, (cfg or Namespace()).get(key))
        return super()._check_value_key(action, value, key, cfg, append)

    def instantiate(self, namespace: Any, *args: Any, **kwargs: Any) -> Any:
        """Build what was parsed.

        Raises:
            UserError: If a function stands where a class is built, or a secret is masked.
        """
        slots = slots_of(self)
        values = namespace.as_dict() if isinstance(namespace, Namespace) else namespace
        own = {key: value for key, value in values.items() if key in slots}  # subcommands have parsers of their own
        refuse_masked(own)
        refuse_nulls(own, slots)
        refuse_mistyped(own)
        refuse_functions(own, slots)
        return super().instantiate(namespace, *args, **kwargs)

    def dump(self, cfg: Any, *args: Any, **kwargs: Any) -> str:
        """What is written into files and shown: without keys, tokens and passwords, and with defaults spelled out.

        It was parsed and is not checked again, which would take as long as parsing.
        """
        return super().dump(spelled_out(masked(cfg)), *args, **{"skip_validation": True, **kwargs})


def spelled_out(value: Any) -> Any:
    """A parsed configuration in which components that stand in lists as objects, as defaults do, are written as
    classes with their arguments.
    """
    if isinstance(value, Namespace):
        return Namespace({key: spelled_out(part) for key, part in vars(value).items()})
    if isinstance(value, list | tuple):
        return [as_class(part) if is_component(part) else spelled_out(part) for part in value]
    if isinstance(value, dict):
        return {key: spelled_out(part) for key, part in value.items()}
    return value


def is_component(value: Any) -> bool:
    """Whether a value is an object of a dataclass."""
    return is_dataclass(value) and not isinstance(value, type)


def as_class(value: Any) -> Namespace:
    """A component as its class and arguments."""
    given = {part.name: getattr(value, part.name) for part in fields(value) if part.init}
    spelled = {k: as_class(v) if is_component(v) else spelled_out(v) for k, v in given.items()}
    path = public_path(type(value))
    return Namespace(class_path=path, init_args=Namespace(spelled)) if spelled else Namespace(class_path=path)


def public_path(kind: type) -> str:
    """Where a class is exported from: the highest room that does, or the module of its own."""
    parts = kind.__module__.split(".")
    homes = (".".join(parts[:end]) for end in range(1, len(parts)))
    found = (home for home in homes if getattr(sys.modules.get(home), kind.__name__, None) is kind)
    return f"{next(found, kind.__module__)}.{kind.__qualname__}"


def named_anew(action: Action, value: Any, before: Any = None) -> Any:
    """``value`` with all its arguments, if it names a class where the default is a component; else as it is.

    Whoever names a class begins with that class's own defaults, and whoever gives arguments alone changes those of the
    default in place. The library would let a class inherit arguments of the same name from the default that it
    replaces. What an earlier config gave to the same class (``before``) is kept.
    """
    name = value.get("class_path") if isinstance(value, Mapping) else value
    default = getattr(action, "default", None)
    if not isinstance(name, str) or not isinstance(default, Mapping | Namespace) or "class_path" not in default:
        return value
    kind = class_named(name, slot_of(getattr(action, "_typehint", None)).classes)
    if kind is None or class_named(default["class_path"], (Component,)) is None:
        return value
    if isinstance(before, Namespace) and "init_args" in before and class_named(before["class_path"], (kind,)) is kind:
        return value
    given = value.get("init_args") or {} if isinstance(value, Mapping) else {}
    own = {key: slot.default for key, slot in arguments_of(kind).items() if not slot.required and not slot.fields}
    whole = value if isinstance(value, Mapping) else {}  # a stray key beside these is the parser's to refuse
    return {**whole, "class_path": name, "init_args": {**own, **given}}


def class_named(name: str, bases: Sequence[type]) -> type | None:
    """The class of a name among those derived from ``bases``; ``None`` if it is none of them."""
    if "." not in name:
        return next((kind for base in bases for kind in subclasses(base) if kind.__name__ == name), None)
    try:
        kind = imported(name, "")
    except UserError:
        return None  # the parser says so
    return kind if inspect.isclass(kind) and issubclass(kind, tuple(bases)) else None


def written_anew(word: str, actions: Sequence[Action]) -> str:
    """:func:`named_anew` for an option of the command line, ``--name=value`` or ``--name.class_path=value``."""
    option, _, text = word.partition("=")
    option = option.removesuffix(".class_path")
    action = next((action for action in actions if option in action.option_strings), None)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return word
    found = value if action is None else named_anew(action, value)
    return word if found is value else f"{option}={json.dumps(found)}"


def refuse_nulls(values: Mapping[str, Any], slots: Mapping[str, Slot], place: str = "") -> None:
    """Raise for what jsonargparse lets pass: ``null`` where something must stand, a value in place of a mapping."""
    for key, value in values.items():
        slot, inner = slots.get(key, Slot()), f"{place}.{key}" if place else key
        if value is None and not slot.nullable and slot.default is not None:
            raise UserError(f"{inner} must not be null; leave it out for its default ({written(slot.default)}).")
        if slot.fields and value is not None and not isinstance(value, Mapping) and not is_dataclass(value):
            keys = named(list(slot.fields)[:4])
            raise UserError(f"{inner} must be a mapping with keys like {keys}, got {shown(value)}.")
        for number, part in enumerate(value) if isinstance(value, list | tuple) else [("", value)]:
            at = f"{inner}[{number}]" if isinstance(value, list | tuple) else inner
            if isinstance(part, Mapping) and isinstance(name := part.get("class_path"), str) and "." in name:
                kind = imported(name, at)
                if inspect.isclass(kind):
                    refuse_nulls(part.get("init_args") or {}, arguments_of(kind), f"{at}.init_args")
            elif isinstance(part, Mapping) and slot.fields:
                refuse_nulls(part, slot.fields, at)


def refuse_mistyped(value: Any, place: str = "") -> None:
    """Raise for arguments of components that are not of their declared types.

    Where a component's own class is declared, the library takes its arguments as they are.
    """
    if isinstance(value, list | tuple):
        for number, part in enumerate(value):
            refuse_mistyped(part, f"{place}[{number}]")
    elif isinstance(value, Mapping):
        name = value.get("class_path")
        kind = class_named(name, (Component,)) if isinstance(name, str) and "." in name else None
        if kind is not None and (fault := next(in_class(value, kind, place), None)):
            raise UserError(fault)
        for key, part in value.items():
            refuse_mistyped(part, f"{place}.{key}" if place else str(key))


def written(default: Any) -> str:
    """A default as Python would write it, also one that the parser keeps as a class with arguments."""
    default = default.as_dict() if isinstance(default, Namespace) else default
    if isinstance(default, Mapping) and isinstance(name := default.get("class_path"), str):
        given = (f"{key}={written(value)}" for key, value in (default.get("init_args") or {}).items())
        return f"{name.rpartition('.')[2]}({', '.join(given)})"
    return repr(list(default) if isinstance(default, tuple) else default)


def without_nulls(values: Mapping[str, Any], slots: Mapping[str, Slot]) -> dict[str, Any]:
    """Arguments, as far down as there are classes, without ``null`` where something must stand.

    For checkpoints of fastgen before 0.2, in whose recipes it means the default.
    """
    return {
        key: part_without_nulls(value, slots.get(key, Slot()))
        for key, value in values.items()
        if value is not None or slots.get(key, Slot()).nullable
    }


def part_without_nulls(value: Any, slot: Slot) -> Any:
    """As ``without_nulls``, for one value."""
    if isinstance(value, list | tuple):
        return [part_without_nulls(part, slot.parts or Slot()) for part in value]
    if isinstance(value, Mapping) and isinstance(name := value.get("class_path"), str) and "." in name:
        return {**value, "init_args": without_nulls(value.get("init_args") or {}, arguments_of(imported(name, name)))}
    if isinstance(value, Mapping) and slot.fields:
        return without_nulls(value, slot.fields)
    return value


def refuse_functions(values: Mapping[str, Any], slots: Mapping[str, Slot], place: str = "") -> None:
    """Raise if a parsed value is a function where a class is built; functions that are defaults stay."""
    for key, value in values.items():
        refuse_function(value, slots.get(key, Slot()), f"{place}.{key}" if place else key)


def refuse_function(value: Any, slot: Slot, place: str) -> None:
    """As ``refuse_functions``, for one value."""
    if inspect.isroutine(value) and slot.classes and value is not slot.default:
        wanted = " or ".join(kind.__name__ for kind in slot.classes)
        raise UserError(f"{place} is the function '{value.__qualname__}'; give the path of a class ({wanted}).")
    if isinstance(value, list | tuple):
        for number, part in enumerate(value):
            refuse_function(part, slot.parts or slot, f"{place}[{number}]")
    elif isinstance(value, Mapping) and isinstance(name := value.get("class_path"), str) and "." in name:
        kind = imported(name, place)
        if not inspect.isclass(kind):
            raise UserError(f"{place}.class_path is the {type(kind).__name__} '{name}'; give the path of a class.")
        refuse_functions(value.get("init_args") or {}, arguments_of(kind), f"{place}.init_args")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            refuse_function(part, slot.fields.get(key, slot.parts or Slot()), f"{place}.{key}")
