"""A network seen on another process than the one it was trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.processes import Prediction, Process
from fastgen.shapes import expand


def same_process(one: Process, other: Process) -> bool:
    """Whether equal times mean equal samples on both, and networks know the same levels."""
    if one is other:
        return True
    if type(one) is not type(other) or one.t_max != other.t_max:
        return False
    ratio = torch.logspace(-2, 3, 11, dtype=torch.float64, device="cpu")
    t, s = one.time(ratio), other.time(ratio)
    return torch.equal(t, s) and all(map(torch.equal, one.coefficients(t), other.coefficients(s)))


class OnProcess(Wrapper):
    """``inner`` on ``process``: scales ``x_t`` and translates the times at equal signal-to-noise ratio.

    With TrigFlow this is the wrapping that continuous-time consistency needs (Lu & Song 2024, arXiv 2410.11081, section
    4; Chen et al. 2025, SANA-Sprint, arXiv 2503.09641, proposition 3.1 for flows), with RectifiedFlow that of MeanFlow.
    x0 and noise mean the same on every process; they are joined in ``v = alpha noise - sigma x0``, from which both come
    back without division by a small number. It owns no weights; predictions are those of ``inner`` to rounding.

    Args:
        inner: The network.
        process: The process of ``x_t``, ``t`` and ``s``.
    """

    def __init__(self, inner: Denoiser, process: Process) -> None:
        super().__init__(inner, process, "v")
        self.inner = inner

    @property
    def wrapped(self) -> Denoiser:
        return self.inner

    @property
    def feature_path(self) -> str:
        return f"inner.{self.inner.feature_path}"

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        own = self.inner.process
        x_own, t_own = self.process.warp(x_t, t, own)
        s_own = None if s is None else own.time_within(self.process.ratio(s))
        return self.outside(self.inner(x_own, t_own, condition, s_own), t)

    def outside(self, prediction: Prediction, t: Tensor) -> Tensor:
        """``v`` on this process, at its times ``t`` (B,), of a prediction on the network's own."""
        alpha, sigma = (expand(c, prediction.x0) for c in self.process.coefficients(t))
        return alpha * prediction.noise - sigma * prediction.x0

    def inside(self, prediction: Prediction) -> Prediction:
        """A prediction on this process as the network itself would have given it."""
        own = self.inner.process
        x_own, t_own = self.process.warp(prediction.x_t, prediction.t, own)
        alpha, sigma = (expand(c, x_own) for c in own.coefficients(t_own))
        v = Prediction(own, x_own, t_own, alpha * prediction.noise - sigma * prediction.x0, "v")
        return Prediction(own, x_own, t_own, v.as_kind(self.inner.prediction), self.inner.prediction)

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float | Tensor) -> Prediction:
        """By the network's own rule, which may depend on what it predicts."""
        mixed = self.inner.guide(self.inside(conditional), self.inside(unconditional), scale)
        value = self.outside(mixed, conditional.t)
        return Prediction(self.process, conditional.x_t, conditional.t, value, "v")


def on_process(denoiser: Denoiser, process: Process) -> Denoiser:
    """``denoiser`` itself if it lives on ``process`` already, else a view of it there."""
    return denoiser if same_process(denoiser.process, process) else OnProcess(denoiser, process)
