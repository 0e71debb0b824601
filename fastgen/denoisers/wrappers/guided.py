"""Calls to a denoiser with and without its condition, in one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.conditions import Condition, concatenate
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
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


class GuidedPrediction(Prediction):
    """``uncond + scale (cond - uncond)``, which remembers what it was mixed of.

    Attributes:
        cond: The prediction with the condition; ``None`` if the scale is 0.
        uncond: The prediction without it; ``None`` if the scale is 1.
    """

    def __init__(self, mixed: Prediction, cond: Prediction | None, uncond: Prediction | None) -> None:
        super().__init__(mixed.process, mixed.x_t, mixed.t, mixed.value, mixed.kind)
        self.cond = cond
        self.uncond = uncond

    @property
    def conditional(self) -> Prediction:
        """The prediction with the condition (without it, if nothing else was asked for)."""
        return self.cond or self


Mix = Callable[[Prediction, Prediction, float], Prediction]
"""The guided prediction from those with and without condition and the scale."""


def guided(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, condition: Condition, scale: float, mix: Mix | None = None
) -> GuidedPrediction:
    """The guided prediction by the family's own rule, :meth:`Denoiser.guide`: losses and solvers have one teacher.

    The plain rule is ``uncond + scale (cond - uncond)``, a multiple of the score of p(x) p(c | x)^scale (Ho & Salimans
    2022, arXiv 2207.12598). A family whose pipeline samples otherwise is another teacher with it, and has an option
    for it. One plain call if ``scale`` is 1 or 0. A network that its pipeline guides by an input is told the scale
    instead, in one call.

    Args:
        denoiser: Who is asked.
        x_t: Noisy samples (B, ...).
        t: Their times (B,).
        condition: What they are conditioned on.
        scale: 1 guides nothing.
        mix: Another rule than the family's.

    Raises:
        UserError: If there is nothing to guide to.
    """
    if scale == 1.0:
        cond = denoiser(x_t, t, condition)
        return GuidedPrediction(cond, cond, None)
    if scale == 0.0:
        uncond = denoiser(x_t, t, denoiser.null_condition(condition))
        return GuidedPrediction(uncond, None, uncond)
    if denoiser.guided_by_input:
        told = {**condition, "guidance": torch.full_like(t, scale)}
        cond = denoiser(x_t, t, told)
        return GuidedPrediction(cond, cond, None)
    if not condition:
        raise UserError(
            f"{type(denoiser).__name__} gets no condition, so a guidance scale of {scale:g} has no meaning; "
            "set the scale to 1."
        )
    cond, uncond = conditional_pair(denoiser, x_t, t, condition)
    return GuidedPrediction((mix or denoiser.guide)(cond, uncond, scale), cond, uncond)


class Guided(Wrapper):
    """A guided network as a network, so that solvers and views of other processes need not know of guidance.

    One that has the scale as an input is told it: guidance on top of what is distilled into it would guide twice.

    Args:
        inner: The network.
        scale: Guidance scale of every sample, (B,).
    """

    def __init__(self, inner: Denoiser, scale: Tensor) -> None:
        super().__init__(inner)
        self.inner = inner
        self.scale = scale

    @property
    def wrapped(self) -> Denoiser:
        return self.inner

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        if self.inner.takes_guidance:
            return self.inner(x_t, t, {**condition, "guidance": self.scale}).value
        cond, uncond = conditional_pair(self.inner, x_t, t, condition)
        return self.inner.guide(cond, uncond, self.scale).value
