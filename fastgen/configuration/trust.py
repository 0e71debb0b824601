"""Who may be built from a file of a stranger.

A checkpoint carries the configuration that built its method, as classes and their arguments by name. Whoever names
classes can run programs, so a checkpoint names no others than those of fastgen, of the library that declares what is
wanted (an ``Optimizer`` is torch's), and of modules that the user trusts. It is looked at as plain data: nothing is
imported for a name that is refused.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastgen.configuration.declared import Slot, arguments_of, subclasses
from fastgen.errors import UserError

OWN = "fastgen"
LIBRARIES = ("torch", "lightning")
"""Their classes may be named where one of their classes is declared."""

SPEC = {"class_path", "init_args", "dict_kwargs"}
"""The keys of a class with its arguments."""


class Trust:
    """The modules whose classes may be built, and the check of a configuration that is still plain data.

    Args:
        modules: Names of modules or packages that the user trusts, beside fastgen.

    Raises:
        UserError: If a name is none.
    """

    def __init__(self, modules: Iterable[str] = ()) -> None:
        self.modules = (OWN, *modules, *own_program())
        for module in self.modules:
            if not all(part.isidentifier() for part in module.split(".")):
                raise UserError(f"--trust takes the name of a module, e.g. my_module, got '{module}'.")

    def check(self, value: Any, slot: Slot, place: str) -> None:
        """Look at a value and all that is in it.

        Args:
            value: Plain data, as from YAML.
            slot: What is declared where the value stands.
            place: The key, for messages.

        Raises:
            UserError: If the value names what may not be built there.
        """
        if isinstance(value, str):
            self.check_text(value, slot, place)
        elif isinstance(value, list | tuple):
            for number, part in enumerate(value):
                self.check(part, slot.parts or slot, f"{place}[{number}]")
        elif isinstance(value, Mapping):
            self.check_mapping(value, slot, place)

    def check_text(self, text: str, slot: Slot, place: str) -> None:
        """A text may be the name of a class, or YAML that holds one."""
        if slot.fields or ((slot.classes or slot.open) and any(key in text for key in SPEC)):
            raise UserError(f"{place} is a text where values by name are expected.")
        if (slot.classes or slot.open) and text.lower().endswith((".yaml", ".yml", ".json")):
            raise UserError(f"{place} is a file where the values themselves are expected.")
        if (
            slot.names
            and all(part.isidentifier() for part in text.split("."))
            and ("." in text or self.is_known(text, slot))
        ):
            self.find(text, slot, place)

    def is_known(self, name: str, slot: Slot) -> bool:
        """Whether a class of this short name could stand in the slot."""
        return any(kind.__name__ == name for base in slot.classes for kind in subclasses(base))

    def check_mapping(self, value: Mapping[Any, Any], slot: Slot, place: str) -> None:
        """A class with its arguments, the arguments of a class that is clear, or values by name."""
        if SPEC & set(value):
            if unknown := set(map(str, value)) - SPEC:
                raise UserError(f"{place} has the key '{min(unknown)}' beside 'class_path'.")
            if not (slot.classes or slot.open):
                raise UserError(f"{place} names a class where none is expected.")
            kind = self.find(value.get("class_path"), slot, f"{place}.class_path")
            for key in ("init_args", "dict_kwargs"):
                self.check_arguments(value.get(key) or {}, arguments_of(kind), f"{place}.{key}")
        elif slot.fields:
            self.check_arguments(value, slot.fields, place)
        elif slot.classes:  # the class may be left out if it is the declared one
            for kind in slot.classes:
                self.check_arguments(value, arguments_of(kind), place)
        else:
            for key, part in value.items():
                self.check(part, slot.parts or slot, f"{place}.{key}")

    def check_arguments(self, values: Any, slots: Mapping[str, Slot], place: str) -> None:
        """Arguments by name; what the class does not name is open."""
        if not isinstance(values, Mapping):
            raise UserError(f"{place} is no mapping of arguments.")
        for key, value in values.items():
            # A dotted key would reach into another argument, behind the back of its own check.
            if not isinstance(key, str) or not key.isidentifier():
                raise UserError(f"{place} has the key '{key}', which is no name of an argument.")
            self.check(value, slots.get(key, Slot(open=True)), f"{place}.{key}")

    def find(self, name: Any, slot: Slot, place: str) -> type:
        """The class of a name.

        Raises:
            UserError: If it is not trusted, is no class, or is none of the wanted ones.
        """
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise UserError(f"{place} must be the name of a class, got '{name}'.")
        wanted = " or ".join(kind.__name__ for kind in slot.classes) or "class"
        found: Any
        if "." in name:
            self.refuse_stranger(name, slot, place)
            found = imported(name, place)
        else:
            named = [kind for base in slot.classes for kind in subclasses(base) if kind.__name__ == name]
            if not named:
                raise UserError(f"{place}: '{name}' is no known {wanted}.")
            found = named[0]
        if not inspect.isclass(found):
            raise UserError(f"{place}: '{name}' is a {type(found).__name__}, not a class; only classes are built.")
        self.refuse_stranger(f"{found.__module__}.{found.__qualname__}", slot, place)
        if slot.classes and not issubclass(found, slot.classes):
            raise UserError(f"{place}: '{name}' is no {wanted}.")
        return found

    def refuse_stranger(self, name: str, slot: Slot, place: str) -> None:
        """Raise unless the class of a dotted name may be built in this slot."""
        libraries = [kind.__module__.partition(".")[0] for kind in slot.classes]
        known = (*self.modules, *(library for library in libraries if library in LIBRARIES))
        if not any(name == module or name.startswith(f"{module}.") for module in known):
            module = name.rpartition(".")[0]
            raise UserError(
                f"{place} asks for '{name}', which does not belong to fastgen; if you know where this file comes from "
                f"and trust that module, give --trust {module}."
            )


def imported(name: str, place: str) -> Any:
    """What a dotted name stands for: a module's, or that of a class in a module.

    Raises:
        UserError: If there is no such thing.
    """
    module, _, rest = name.rpartition(".")
    while module:
        try:
            found: Any = import_module(module)
            for part in rest.split("."):
                found = getattr(found, part)
            return found
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise UserError(f"{place}: '{module}' needs the module '{error.name}', which is missing.") from error
            module, _, last = module.rpartition(".")
            rest = f"{last}.{rest}"
        except AttributeError as error:
            raise UserError(f"{place}: there is no '{rest}' in {module}.") from error
    raise UserError(f"{place}: there is no module '{name.partition('.')[0]}'; install it or mend PYTHONPATH.")


def own_program() -> tuple[str, ...]:
    """The module that the user runs as a program, e.g. ``python my_method.py sample``, by the name in its checkpoints.

    Only if an import of that name would read the same file.
    """
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    name = Path(file or "").stem
    if not name.isidentifier() or name.startswith("__"):
        return ()
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return ()
    same = spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(str(file)).resolve()
    return (name,) if same else ()
