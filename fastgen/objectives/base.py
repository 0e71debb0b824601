"""Objective: a component that training needs and samples do not."""

from __future__ import annotations

from fastgen.configuration.components import Component


class Objective(Component):
    """Base of losses, forms, weights, metrics and divergences.

    Whoever samples from a checkpoint builds none of them, so a recipe may name one that is not there any more.
    """
