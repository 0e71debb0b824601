"""States in a checkpoint are looked at before they are taken: a checkpoint may be anybody's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastgen.configuration.building import FROM_ARGUMENTS
from fastgen.errors import UserError
from fastgen.messages import cause_of


def is_count(value: Any) -> bool:
    """A whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_names(value: Any) -> bool:
    """A list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_table(value: Any) -> bool:
    """Values by name."""
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def is_counts(value: Any) -> bool:
    """Whole numbers from 0 by name."""
    return is_table(value) and all(map(is_count, value.values()))


def is_tables(value: Any) -> bool:
    """Tables by name."""
    return is_table(value) and all(map(is_table, value.values()))


Forms = Mapping[str, tuple[Callable[[Any], bool], str]]
"""What a part must be, and what it is called in a sentence."""


def refuse_misshapen(values: Mapping[str, Any], forms: Forms, path: str | os.PathLike[str]) -> None:
    """Raise a ``UserError`` for the first part that is there and is something else."""
    for name, (holds, called) in forms.items():
        if name in values and not holds(values[name]):
            raise UserError(f"'{path}' has no {called}; use an earlier checkpoint.")


@contextmanager
def restoring(what: str) -> Iterator[None]:
    """Errors inside come from a state that is none of ``what``.

    Raises:
        UserError: Instead of them.
    """
    try:
        yield
    except UserError:
        raise
    except (*FROM_ARGUMENTS, AttributeError) as error:
        raise UserError(
            f"The checkpoint holds no state of {what} ({cause_of(error)}); use an earlier checkpoint."
        ) from error


def count_of(state: Mapping[str, Any], name: str) -> int:
    """A whole number from 0 in a state.

    Raises:
        ValueError: If it is something else.
    """
    if not is_count(state[name]):
        raise ValueError(f"'{name}' is no whole number from 0")
    found: int = state[name]
    return found
