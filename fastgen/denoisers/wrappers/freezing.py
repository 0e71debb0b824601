"""Training a part of a network."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from fastgen.errors import UserError


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Stop the parameters whose names match one of the ``patterns`` (``*`` matches anything, also dots).

    A method leaves such parameters out of its optimizers.

    Raises:
        UserError: If a pattern matches nothing, or nothing is left to train.
    """
    names = dict(network.named_parameters())
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise UserError(
                f"'{pattern}' matches no parameter of {type(network).__name__}; its first is '{next(iter(names))}'."
            )
        for name in found:
            names[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise UserError(f"Every parameter of {type(network).__name__} is frozen; remove some of {list(patterns)}.")
