"""Component: a part of a method that a configuration names, and that shows as the default of an argument."""

from __future__ import annotations

from typing import Literal

Seed = int | Literal["seed_everything"]
"""A seed, or that of the run: the command line puts ``--seed_everything`` in its place, elsewhere it is 0."""


def seed_of(seed: Seed) -> int:
    """The number that a seed stands for."""
    return 0 if isinstance(seed, str) else seed


class Component:
    """Base of laws, solvers, losses and whatever else stands as a default in a signature.

    A component is a frozen dataclass: an immutable value that is compared by its fields, shows them, and can be shared.
    Its fields are its constructor's arguments and nothing else, so that ``--print_config``, a run's ``config.yaml`` and
    the recipe in a checkpoint hold each default as a class with arguments. What follows from the fields is a property;
    ``__post_init__`` holds the checks.
    """
