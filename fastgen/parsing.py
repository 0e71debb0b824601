"""What every parser of configurations refuses, whoever wrote them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from fastgen.declared import Slot, arguments_of, slots_of
from fastgen.errors import UserError
from fastgen.masking import masked, refuse_masked
from fastgen.trust import imported

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
        refuse_functions(own, slots)
        return super().instantiate(namespace, *args, **kwargs)

    def dump(self, cfg: Any, *args: Any, **kwargs: Any) -> str:
        """What is written into files and shown: without keys, tokens and passwords, and with defaults spelled out."""
        return super().dump(spelled_out(masked(cfg)), *args, **kwargs)


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
    """Where a class is exported from: the module of its own, or the room above it."""
    home, _, _ = kind.__module__.rpartition(".")
    exported = home and getattr(sys.modules.get(home), kind.__name__, None) is kind
    return f"{home if exported else kind.__module__}.{kind.__qualname__}"


def refuse_nulls(values: Mapping[str, Any], slots: Mapping[str, Slot], place: str = "") -> None:
    """Raise if ``null`` stands where something must, which jsonargparse takes for an argument that is left out."""
    for key, value in values.items():
        slot, inner = slots.get(key, Slot()), f"{place}.{key}" if place else key
        if value is None and not slot.nullable and slot.default is not None:
            raise UserError(f"{inner} must not be null; leave it out for its default ({slot.default!r}).")
        for number, part in enumerate(value) if isinstance(value, list | tuple) else [("", value)]:
            at = f"{inner}[{number}]" if isinstance(value, list | tuple) else inner
            if isinstance(part, Mapping) and isinstance(name := part.get("class_path"), str) and "." in name:
                kind = imported(name, at)
                if inspect.isclass(kind):
                    refuse_nulls(part.get("init_args") or {}, arguments_of(kind), f"{at}.init_args")
            elif isinstance(part, Mapping) and slot.fields:
                refuse_nulls(part, slot.fields, at)


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
