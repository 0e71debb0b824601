"""What a constructor refuses while a configuration is built, told with the key of its class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from fastgen.configuration.building import FROM_ARGUMENTS
from fastgen.errors import UserError
from fastgen.messages import cause_of


@contextmanager
def telling(parser: ArgumentParser, config: Namespace) -> Iterator[None]:
    """Errors of constructors while ``parser`` instantiates ``config``.

    The parser would swallow them, since another member of a union might do.

    Raises:
        UserError: For those that come from arguments; all others as they are, because they are bugs.
    """
    failures: list[tuple[type, dict[str, Any], Exception]] = []

    def build(kind: type, *args: Any, **kwargs: Any) -> Any:
        try:
            return kind(*args, **kwargs)
        except Exception as error:
            failures.append((kind, kwargs, error))
            raise

    parser.add_instantiator(build, object)
    try:
        yield
    except Exception as error:
        if not failures or isinstance(error, UserError):
            raise
        kind, arguments, cause = failures[-1]
        place = place_of(kind, arguments, config.as_dict())
        if isinstance(cause, UserError):
            raise UserError(placed(str(cause), place, config.as_dict())) from error
        if not isinstance(cause, FROM_ARGUMENTS):
            raise cause from None
        what = f"{place} ({kind.__name__})" if place else kind.__name__
        raise UserError(f"{what} cannot be built ({cause_of(cause)}); change its arguments.") from error


def placed(said: str, place: str, config: Any) -> str:
    """A sentence "Class: argument must be ..." with the argument's key instead, as far as it is known."""
    if not place:
        return said
    name, _, rest = said.partition(": ")
    inner = ((k, spec) for k, spec in specs(config) if k.startswith(place) and spec["class_path"].endswith(f".{name}"))
    for key, spec in inner:
        if (word := re.match(r"\w+", rest)) and word[0] in (spec.get("init_args") or {}):
            return f"{key}.init_args.{rest}"
    return f"{place}: {said}"


def place_of(kind: type, arguments: Mapping[str, Any], config: Any) -> str:
    """The key of a class in a configuration: the first one, or the first with these arguments; else empty."""
    found = [(place, spec) for place, spec in specs(config) if spec["class_path"].rpartition(".")[2] == kind.__name__]

    def agrees(spec: Mapping[str, Any]) -> bool:
        plain = {k: v for k, v in (spec.get("init_args") or {}).items() if isinstance(v, int | float | str)}
        return all(arguments.get(name) == value for name, value in plain.items())

    return next((place for place, spec in found if agrees(spec)), found[0][0] if found else "")


def specs(config: Any, place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every class with its arguments in plain data, by key."""
    if isinstance(config, Mapping):
        if isinstance(config.get("class_path"), str):
            yield place, config
        for key, value in config.items():
            yield from specs(value, f"{place}.{key}" if place else str(key))
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from specs(value, f"{place}[{number}]")
