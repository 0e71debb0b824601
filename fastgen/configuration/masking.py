"""Keys, tokens and passwords: they are used, but never written into a file that others read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from fastgen.errors import UserError

MASK = "********"
"""What stands in a file in place of a secret."""

SECRET = re.compile(
    r"(?:^|_)(?:api_?key|(?:access|secret|private)_key|key_id|token|password|passwd|secret|credentials?)$"
)
"""Names of arguments whose text is a secret, e.g. ``api_key`` and ``hub_token`` but not ``tokenizer``."""

IN_ADDRESS = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)(?=@)")
"""User and password in an address, ``https://user:password@host``."""


def masked(value: Any, name: str = "") -> Any:
    """A copy of plain data, or of a parsed configuration, in which every secret is ``MASK``."""
    if isinstance(value, Namespace):
        return Namespace({key: masked(part, key) for key, part in vars(value).items()})
    if isinstance(value, dict):
        return {key: masked(part, str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [masked(part, name) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, str) and value:
        return MASK if SECRET.search(name.lower()) else IN_ADDRESS.sub(rf"\1:{MASK}", value)
    return value


def without_masks(value: Any) -> Any:
    """A copy of plain data without the arguments that are masked, for which their defaults must do."""
    if isinstance(value, dict):
        return {k: without_masks(part) for k, part in value.items() if not (isinstance(part, str) and MASK in part)}
    return [without_masks(part) for part in value] if isinstance(value, list) else value


def refuse_masked(value: Any, place: str = "") -> None:
    """Raise if plain data hold a mask.

    Raises:
        UserError: Naming the key, so that the secret can be given again.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            refuse_masked(part, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            refuse_masked(part, f"{place}[{number}]")
    elif isinstance(value, str) and MASK in value:
        raise UserError(
            f"{place} is a secret, which saved configs do not hold ('{value}'); give it again, or leave it out and set "
            "the variable of the environment that its library reads."
        )
