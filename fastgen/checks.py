"""Checks of a constructor's arguments: what is out of range raises a ``UserError`` that names it.

    checks.positive(self, sigma_min=sigma_min, sigma_max=sigma_max)
    checks.strictly_ascending(self, sigma_min=sigma_min, sigma_max=sigma_max)

says "EDM: sigma_min must be above 0, got nan." Every function takes the object (or its name) and arguments by name.
``None`` is an optional argument that was not given, and passes. Of a list, a mapping or a tensor every number is
checked. Not-a-number and infinity are in no range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, Literal

import torch

from fastgen.errors import UserError
from fastgen.messages import short

LARGEST_INTEGER = 2**31 - 1
"""Bound of counts and sizes; nothing here can be larger, and larger numbers overflow far from the config."""

LARGEST_SIDE = 65_536
"""Largest height and width of a picture in pixels."""

MOST_STEPS = 10_000
"""Most steps of a sampler; more would never end."""

MOST_WORKERS = 1_024
"""Most processes of a data loader."""

LARGEST_SEED = 2**32 - 1
"""Largest seed that every generator takes (numpy's is the smallest)."""

LARGEST_FLOAT = 3.4e38
"""About the largest number of fp32, in which losses and weights are computed."""

Owner = Any


def name_of(owner: Owner) -> str:
    """How a message calls what the arguments belong to."""
    return owner if isinstance(owner, str) else type(owner).__name__


def each_number(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The numbers of an argument with their places in it."""
    if value is None:
        return
    if hasattr(value, "shape"):  # a tensor or an array, maybe a whole data set: its extremes stand for it
        extremes = torch.as_tensor(value)
        if extremes.numel():  # both are not-a-number if one element is
            yield from ((name, number.item()) for number in (extremes.min(), extremes.max()))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from each_number(f"{name}.{key}", item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, item in enumerate(value):
            yield from each_number(f"{name}[{i}]", item)
    else:
        yield name, value


def is_real(value: Any) -> bool:
    """Whether it is a finite number; True and False are none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return value == value and -LARGEST_FLOAT <= value <= LARGEST_FLOAT  # type: ignore[operator]


def written(number: Any) -> str:
    """A number as it was given, its end left out if it is endless."""
    try:
        return short(repr(number))
    except ValueError:  # Python refuses to write thousands of digits
        return "a number of thousands of digits"


def require(owner: Owner, allowed: str, holds: Callable[[Any], bool], arguments: Mapping[str, Any]) -> None:
    """Raise a ``UserError`` for the first number of which ``holds`` is false."""
    for argument, value in arguments.items():
        for place, number in each_number(argument, value):
            if not holds(number):
                raise UserError(f"{name_of(owner)}: {place} must be {allowed}, got {written(number)}.")


def finite(owner: Owner, /, **arguments: Any) -> None:
    """Any number but infinity and not-a-number."""
    require(owner, "a finite number", is_real, arguments)


def positive(owner: Owner, /, **arguments: Any) -> None:
    """Finite numbers above 0."""
    require(owner, "a finite number above 0", lambda x: is_real(x) and x > 0, arguments)


def not_negative(owner: Owner, /, **arguments: Any) -> None:
    """Finite numbers from 0."""
    require(owner, "a finite number from 0", lambda x: is_real(x) and x >= 0, arguments)


def at_least(owner: Owner, least: float, /, **arguments: Any) -> None:
    """Finite numbers from ``least``."""
    require(owner, f"a finite number from {least:g}", lambda x: is_real(x) and x >= least, arguments)


def between(
    owner: Owner, low: float, high: float, ends: Literal["[]", "[)", "(]", "()"] = "[]", /, **arguments: Any
) -> None:
    """Numbers of an interval; a round bracket leaves its end out."""

    def holds(x: Any) -> bool:
        above = is_real(x) and (x > low or (x == low and ends[0] == "["))
        return above and (x < high or (x == high and ends[1] == "]"))

    require(owner, f"in {ends[0]}{low:g}, {high:g}{ends[1]}", holds, arguments)


def fraction(owner: Owner, /, **arguments: Any) -> None:
    """Numbers in [0, 1]: probabilities, shares, positions."""
    between(owner, 0.0, 1.0, **arguments)


def whole(owner: Owner, least: int = 1, most: int = LARGEST_INTEGER, /, **arguments: Any) -> None:
    """Integers from ``least`` to ``most``."""

    def holds(x: Any) -> bool:
        return isinstance(x, Integral) and not isinstance(x, bool) and least <= int(x) <= most

    allowed = f"an integer from {least}" + ("" if most == LARGEST_INTEGER else f" to {most}")
    require(owner, allowed, holds, arguments)


def seed(owner: Owner, /, **arguments: Any) -> None:
    """Seeds of random numbers; the word for the run's own, ``components.Seed``, is one too."""
    whole(owner, 0, LARGEST_SEED, **{name: value for name, value in arguments.items() if value != "seed_everything"})


def ascending(owner: Owner, /, **arguments: Any) -> None:
    """Numbers in this order, maybe equal; what is ``None`` or a word is left out."""
    given = {name: value for name, value in arguments.items() if isinstance(value, Real)}
    for (first, low), (second, high) in pairwise(given.items()):
        if low > high:  # type: ignore[operator]
            raise UserError(f"{name_of(owner)}: {first} must be at most {second}, got {low!r} and {high!r}.")


def strictly_ascending(owner: Owner, /, **arguments: Any) -> None:
    """Different numbers in this order."""
    ascending(owner, **arguments)
    for (first, low), (second, high) in pairwise(arguments.items()):
        if low == high:
            raise UserError(f"{name_of(owner)}: {first} must be below {second}, got {low!r} for both.")


def not_empty(owner: Owner, /, **arguments: Any) -> None:
    """Lists that have members."""
    for argument, value in arguments.items():
        if value is not None and len(value) == 0:
            raise UserError(f"{name_of(owner)}: {argument} must not be empty; name at least one.")


def kind(owner: Owner, wanted: type, /, **arguments: Any) -> None:
    """Objects of a class."""
    for argument, value in arguments.items():
        if value is not None and not isinstance(value, wanted):
            raise UserError(f"{name_of(owner)}: {argument} must be a {wanted.__name__}, got {type(value).__name__}.")


def distinct(owner: Owner, /, **arguments: Any) -> None:
    """Lists that name nothing twice."""
    for argument, value in arguments.items():
        if value is not None and len(set(value)) < len(value):
            raise UserError(f"{name_of(owner)}: {argument} must not name anything twice, got {list(value)!r}.")
