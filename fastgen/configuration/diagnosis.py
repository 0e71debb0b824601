"""The fault in a configuration that the parser has refused, found in the plain data by the declared types.

The parser tries every member of a union and reports all that went wrong in nested paragraphs. Looking once more at
what was written finds the one place that fits nothing, and can say what would.
"""

from __future__ import annotations

import collections.abc
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser

from fastgen.configuration.building import FROM_ARGUMENTS
from fastgen.configuration.declared import Slot, arguments_of, slot_of, slots_of, subclasses
from fastgen.configuration.given import OF_CLASSES, given
from fastgen.configuration.renamed import class_now, option_now, value_now
from fastgen.configuration.type_hints import described, members, suits
from fastgen.errors import ParserError, UserError
from fastgen.messages import cause_of, named, near, short, shown
from fastgen.storage.documents import read_yaml


def fault_of(words: Sequence[str], parser: ArgumentParser) -> str | None:
    """The first fault of a command line and its configs as a sentence that begins with its key.

    Args:
        words: The command line after the command.
        parser: What has refused it.

    Returns:
        ``None`` if every value fits its declared type.

    Raises:
        UserError: If a config cannot be read.
    """
    slots = options_of(parser)
    flags = [option[2:] for action in parser._actions if action.nargs == 0 for option in action.option_strings]
    return next(in_arguments(given(words, flags), slots, ""), None)


@contextmanager
def diagnosing(words: Sequence[str], parser: ArgumentParser) -> Iterator[None]:
    """While ``parser`` reads the command line: says where the fault is and what would do.

    Raises:
        UserError: If there is one, or a config of the command line is no sound YAML.
    """
    for word in words:
        path = word.rpartition("=")[2]
        if path.endswith((".yaml", ".yml")) and os.path.isfile(path):
            read_yaml(path)  # also of a part: --model model.yaml
    try:
        yield
    except (ParserError, *FROM_ARGUMENTS) as error:
        if fault := fault_of(words, parser):
            raise UserError(fault) from error
        raise


def options_of(parser: ArgumentParser) -> dict[str, Slot]:
    """What a parser takes by name, also what has no type: flags and configs."""
    typed = slots_of(parser)
    slots: dict[str, Slot] = {}
    for action in parser._actions:
        for option in action.option_strings or [action.dest]:
            name = option.lstrip("-").partition(".")[0]
            slots.setdefault(name, replace(typed.get(action.dest, Slot()), required=False))  # also --batch-size
    return {**slots, **typed}


def refuse_unknown(contents: Any, parser: ArgumentParser) -> None:
    """Raise a :class:`UserError` for keys of a config that no option has; the parser overlooks empty ones."""
    if isinstance(contents, Mapping):
        options = options_of(parser)
        unknown = {key: None for key in contents if str(key).partition(".")[0] not in options}
        if found := next(in_arguments(unknown, options, ""), None):
            raise UserError(found)


def in_arguments(values: Mapping[str, Any], slots: Mapping[str, Slot], place: str, skipped: int = 0) -> Iterator[str]:
    """Faults of arguments by name; the first ``skipped`` are given by whoever calls the class."""
    for key, value in values.items():
        inner = f"{place}.{key}" if place else str(key)
        if key in slots:
            yield from in_value(value, slots[key], inner)
        elif slots:
            names = [name for name in list(slots)[skipped:] if name != "help" and len(name) > 1]
            said = f"{place} has no option" if place else "there is no option"
            yield f"{said} '{short(key)}'{near(str(key), names)}; known are {named(names)}."
    for name, slot in list(slots.items())[skipped:]:
        if slot.required and name not in values:
            yield f"{place} lacks '{name}'; give it." if place else f"'{name}' is missing; give it."


def in_value(value: Any, slot: Slot, place: str) -> Iterator[str]:
    """Faults of one value."""
    if slot.fields:
        if isinstance(value, Mapping):
            yield from in_arguments(value, slot.fields, place)
        elif value is not None:
            yield f"{place} must be a mapping with keys like {named(list(slot.fields)[:4])}, got {shown(value)}."
        return
    yield from in_hint(value, slot.hint, place)


def in_hint(value: Any, hint: Any, place: str) -> Iterator[str]:
    """Faults of a value of a declared type."""
    if isinstance(value, str) and classes(hint) and value.endswith((".yaml", ".yml")):
        yield from in_hint(read_yaml(value), hint, place)
    elif is_class_like(value, hint):
        yield from in_class(value, hint, place)
    elif suits(value, hint, shallow=True):
        yield from in_parts(value, next(m for m in members(hint) if suits(value, m, shallow=True)), place)
    elif isinstance(value, Mapping) and "class_path" not in value and classes(hint):
        kinds = usable(hint)
        yield f"{place} has no class_path; write 'class_path: {kinds[0] if kinds else 'NAME'}', arguments in init_args."
    else:
        yield f"{place} must be {described(hint)}, got {shown(value)}."


def in_parts(value: Any, hint: Any, place: str) -> Iterator[str]:
    """Faults inside of a value whose own kind fits."""
    arguments = [part for part in get_args(hint) if part is not Ellipsis]
    origin = get_origin(hint)
    if isinstance(value, list | tuple) and arguments:
        if origin is tuple and Ellipsis not in get_args(hint):
            if len(arguments) != len(value):
                yield f"{place} must have {len(arguments)} values, got {len(value)}."
                return
            for number, (part, inner) in enumerate(zip(value, arguments, strict=True)):
                yield from in_hint(part, inner, f"{place}[{number}]")
        else:
            for number, part in enumerate(value):
                yield from in_hint(part, arguments[0], f"{place}[{number}]")
    elif isinstance(value, Mapping) and len(arguments) == 2:
        for key, part in value.items():
            yield from in_hint(part, arguments[1], f"{place}.{key}")


def classes(hint: Any) -> tuple[type, ...]:
    """The classes that may be named, without those that only code can make, such as tensors."""
    return tuple(kind for kind in slot_of(hint).classes if kind.__name__ != "Tensor")


def is_class_like(value: Any, hint: Any) -> bool:
    """Whether a value means to name a class, and one may be named."""
    named_so = isinstance(value, str) or (isinstance(value, Mapping) and bool(set(value) & set(OF_CLASSES)))
    plain = [m for m in members(hint) if not classes(m) and m is not type(None)]
    return bool(classes(hint)) and named_so and not (isinstance(value, str) and plain)


def in_class(value: Any, hint: Any, place: str) -> Iterator[str]:
    """Faults of a class with its arguments."""
    spec = {"class_path": str(value)} if isinstance(value, str) else value
    if unknown := [key for key in spec if key not in OF_CLASSES]:
        yield f"{place} has the key '{short(unknown[0])}' beside class_path; move it into init_args."
    if "class_path" not in spec:
        yield f"{place} has init_args but no class_path; name the class."
        return
    path = f"{place}.class_path" if isinstance(value, Mapping) else place
    name = spec["class_path"]
    if not isinstance(name, str):
        yield f"{path} must be the name of a class, got {shown(name)}."
        return
    kind = found_class(name, hint, path)
    if isinstance(kind, str):
        yield kind
        return
    arguments = spec.get("init_args")
    if arguments is not None and not isinstance(arguments, Mapping):
        yield f"{place}.init_args must be a mapping of arguments, got {shown(arguments)}."
        return
    calls = [member for member in members(hint) if get_origin(member) is collections.abc.Callable]
    inputs = get_args(calls[0])[0] if calls else []
    skipped = len(inputs) if isinstance(inputs, list) else 0
    slots = arguments_of(kind)
    if not slots and arguments:
        yield f"{place}.init_args must be empty, because {kind.__name__} takes no arguments."
    for name in (name for name in arguments or {} if name not in slots):
        if said := option_now(kind, str(name)):
            yield f"{place}.init_args.{name} {said}."
    for name, value in (arguments or {}).items():
        said = value_now(kind, str(name), value)
        if said and "." not in value and value not in usable(slots[name].hint):
            yield f"{place}.init_args.{name} {said}."
    yield from in_arguments(arguments or {}, slots, f"{place}.init_args", skipped)


def found_class(name: str, hint: Any, place: str) -> type | str:
    """The class of a name, or what is wrong with it."""
    bases = classes(hint)
    if said := class_now(name):
        return f"{place}: {name.rpartition('.')[2]} {said}."
    wanted = " or ".join(kind.__name__ for kind in bases)
    if "." not in name:
        kinds = [kind for base in bases for kind in subclasses(base) if kind.__name__ == name]
        if kinds:
            return kinds[0]
        said = f"{place}: there is no {wanted} called '{short(name)}'{near(name, usable(hint))}"
        return f"{said}; choose one of {named(usable(hint))}."
    found: Any = imported(name, place)
    if isinstance(found, str) and name.startswith("fastgen."):
        last = name.rpartition(".")[2]
        for kind in (kind for base in bases for kind in subclasses(base) if kind.__name__ == last):
            return f"{place}: {last} is in {kind.__module__} now; write {last}, without a path."
    if isinstance(found, str):
        return found
    if not inspect.isclass(found):
        return f"{place}: '{short(name)}' is a {kind_of(found)}; give the path of a class ({wanted})."
    if not issubclass(found, bases):
        return f"{place}: '{short(name)}' is no {wanted}; choose one of {named(usable(hint))}."
    if inspect.isabstract(found):
        return f"{place}: '{short(name)}' is abstract; give a class that is derived from it."
    return found


def kind_of(found: Any) -> str:
    """What something is that is no class."""
    return "function" if inspect.isroutine(found) else "module" if inspect.ismodule(found) else "value"


def imported(name: str, place: str) -> Any:
    """What a dotted name stands for, or why there is no such thing."""
    module, _, last = name.rpartition(".")
    if not all(part.isidentifier() for part in name.split(".")):
        return f"{place}: '{short(name)}' is no path of a class; write module.Class."
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return f"{place}: there is no module '{error.name}'; install it, mend the name or set PYTHONPATH."
        return f"{place}: the module '{module}' needs the module '{error.name}', which is missing; install it."
    except Exception as error:  # whatever a module of the user's does
        return f"{place}: the module '{module}' cannot be imported ({cause_of(error)}); mend it."
    if hasattr(home, last):
        return getattr(home, last)
    known = [name for name, value in vars(home).items() if inspect.isclass(value)]
    return f"{place}: there is no '{short(last)}' in {module}{near(last, known)}; mend the name."


def usable(hint: Any) -> list[str]:
    """Short names of the classes that can be built where ``hint`` is declared."""
    kinds = [kind for base in classes(hint) for kind in subclasses(base) if not inspect.isabstract(kind)]
    own = sorted(
        {kind.__name__ for kind in kinds if kind.__module__.startswith("fastgen.") and kind.__name__[0] != "_"}
    )
    return own + sorted({kind.__name__ for kind in kinds if kind.__name__[0] != "_"} - set(own))
