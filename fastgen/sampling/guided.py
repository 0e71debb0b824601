"""Calls to a denoiser with and without its condition, in one batch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.conditions import Condition, concatenate
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.processes import Prediction


def conditional_pair(denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Prediction, Prediction]:
    """Predictions with the condition and with the null condition, from one forward of twice the batch."""
    both = concatenate([condition, denoiser.null_condition(condition)])
    value = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both).value
    cond, uncond = value.chunk(2)
    kind = denoiser.prediction
    return (
        Prediction(denoiser.process, x_t, t, cond, kind),
        Prediction(denoiser.process, x_t, t, uncond, kind),
    )


def guided(denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition, scale: float) -> Prediction:
    """The prediction guided by :meth:`Denoiser.guide`; one plain call if ``scale`` is 1.

    Raises:
        UserError: If there is nothing to guide to.
    """
    if scale == 1.0:
        return denoiser(x_t, t, condition)
    if not condition:
        raise UserError(
            f"{type(denoiser).__name__} gets no condition, so a guidance scale of {scale:g} has no meaning; set it to 1."
        )
    cond, uncond = conditional_pair(denoiser, x_t, t, condition)
    return denoiser.guide(cond, uncond, scale)
