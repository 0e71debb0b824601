"""Do updates move the weights, and downhill?"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen.sharding import local

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller

HEAD = 4096
"""Elements of each tensor that are looked at."""
IN_A_ROW = 3
"""Readings of one kind before it is said."""


def head(tensor: Tensor) -> Tensor:
    """The first elements of a tensor, or of this process's part of it."""
    return local(tensor.detach()).flatten()[:HEAD]


class Movement:
    """Compares a batch's updates with their gradients, for every role whose turn it is.

    An update that follows its gradient climbs; with noisy gradients and momentum a single one may, several in a row
    do not. Weights that never change belong to a learning rate of zero, or one that vanishes in rounding.
    """

    def __init__(self) -> None:
        self.readings: Counter[str] = Counter()
        self.still: Counter[str] = Counter()
        self.uphill: Counter[str] = Counter()
        self._before: dict[str, list[Tensor]] = {}

    def before(self, method: Distiller) -> None:
        """Remember the weights that the coming batch is to move."""
        roles = set(method.all_turns(method.iteration))
        self._before = {role: [head(p).clone() for p in method.trained_parameters[role]] for role in roles}

    @torch.no_grad()
    def after(self, method: Distiller) -> None:
        """Look where they went; a skipped update has no gradient and does not count."""
        for role, old in self._before.items():
            parameters = method.trained_parameters[role]
            pairs = [(head(p), o, head(p.grad)) for p, o in zip(parameters, old, strict=True) if p.grad is not None]
            if not pairs:
                continue
            climbed = sum(((new - o).double() * g.double()).sum() for new, o, g in pairs)
            moved = torch.stack([(new != o).any() for new, o, _ in pairs]).any()
            self.readings[role] += 1
            self.still[role] = 0 if moved else self.still[role] + 1
            self.uphill[role] = self.uphill[role] + 1 if climbed > 0 else 0
        self._before = {}

    def of_roles(self, streaks: Counter[str], at_end: bool = False) -> list[str]:
        """The roles whose last readings were all of one kind: ``IN_A_ROW``, or at the end all that there are."""
        return [
            role
            for role, count in streaks.items()
            if count >= IN_A_ROW or (at_end and 0 < count == self.readings[role])
        ]
