"""D-ODE solvers: a scalar for each call that makes a step of few end where many end."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastgen.processes import Prediction

Form = Literal["noise", "data"]


def difference(form: Form, prediction: Prediction, before: Prediction | None, first: Tensor) -> Tensor | None:
    """What a call's scalar multiplies, (B, ...); ``None`` where it has none.

    Kim et al. 2023, arXiv 2309.16421, and its code: ``eps_i - eps_(i-1)``, at the first call ``eps_0 - x_T`` with the
    standard normal noise x_T (D-DDIM); for ``data`` ``D_i - D_(i-1)``, nothing at the first call (D-EDM).

    Args:
        form: What is compared.
        prediction: The call's.
        before: The last call's; ``None`` at the first.
        first: The noise that sampling began with, (B, ...).
    """
    if form == "noise":
        return prediction.noise - (first if before is None else before.noise)
    return None if before is None else prediction.x0 - before.x0


def least_squares(step: Tensor, difference: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the scalar with which ``step + scalar * difference`` is nearest to ``target``.

    Sums over all samples and elements, in fp64, so that several processes can add theirs.
    """
    d = difference.double()
    return (d * (target.double() - step.double())).sum(), d.square().sum()


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The scalar; 0 where there is nothing to correct with."""
    return torch.where(denominator > 0.0, numerator / denominator.clamp(min=1e-300), torch.zeros_like(numerator))
