"""Implicit distribution alignment: the critic follows the student's weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from fastgen import checks
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.sharding import local

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


VIEWED = "inner."
"""Where a network that is seen on another process has its weights."""


class ImplicitAlignment(Extra):
    """Implicit distribution alignment, IDA (Ge et al. 2025, SenseFlow, arXiv 2506.00523).

    After an update of the student, ``critic <- decay critic + (1 - decay) student``, weight by weight: a critic that
    lags behind a moving student is drawn towards what the student has become, so that fewer critic updates keep up.
    SenseFlow has 0.97 on FLUX.1 and 0.98 on SD3.5 medium; Phased DMD's trainer in ModelTC/LightX2V has 0.97; CDM (arXiv
    2605.06376) has 0.999 and does it after updates of the critic.

    Both networks must be built alike; adapters (of one rank, on the same layers) are mixed as adapters. After the
    student's update only what that update moved is followed, so that of several experts the others rest.

    Args:
        decay: What the critic keeps of its own.
        start: Student update from which it is active.
        follows: The role after whose updates it happens: ``student``, or the critic's own.
        role: The critic's name among the roles.
    """

    reads_others = True

    def __init__(self, decay: float = 0.97, start: int = 0, follows: str = "student", role: str = "critic") -> None:
        checks.between(self, 0.0, 1.0, "[)", decay=decay)
        super().__init__(start=start)
        self.decay = decay
        self.follows = follows
        self.role = role

    def build(self, method: Distiller) -> None:
        for name, option in ((self.role, "role"), (self.follows, "follows")):
            if name not in method.built_roles:
                raise UserError(
                    f"ImplicitAlignment: {type(method).__name__} trains no role '{name}'; its roles are: "
                    f"{', '.join(method.built_roles)}. Change '{option}', or leave the extra out."
                )
        self.pairs(method)

    def pairs(self, method: Distiller) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """The weights of the critic, each with the student's of the same name.

        Raises:
            UserError: If the two networks have other weights.
        """
        kept, new = (
            {name.removeprefix(VIEWED): weight for name, weight in getattr(method, role).named_parameters()}
            for role in (self.role, "student")
        )
        unlike = next(
            (n for n in (*kept, *new) if n not in kept or n not in new or kept[n].shape != new[n].shape), None
        )
        if unlike is not None:
            raise UserError(
                f"ImplicitAlignment mixes the weights of {self.role} and student, which must be built alike, but "
                f"'{unlike}' is missing in one of them or of another shape; give both the same network, or adapters of "
                "one rank on the same layers."
            )
        return zip(kept.values(), new.values(), strict=True)

    @torch.no_grad()
    def after_update(self, method: Distiller, role: str) -> None:
        if role != self.follows:
            return
        for kept, new in self.pairs(method):
            if role != "student" or new.grad is not None:
                local(kept).lerp_(local(new).to(kept.dtype), 1.0 - self.decay)
