"""Mean flows."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.methods.flow_maps.eulerian import EulerianDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.objectives.flow_maps import adaptive_weight, rms_weight
from fastgen.optimizers import BetasAdam
from fastgen.processes import Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import JumpLaw, SortedTimes


class MeanFlow(EulerianDistiller):
    """MeanFlow (Geng et al. 2025, arXiv 2505.13447; github.com/Gsunshine/meanflow).

    The mean velocity u from t to s satisfies ``u = v - (t - s) du/dt`` (eq. 6); the loss is the squared error against
    that target, weighted by ``1 / (error + c)^p`` per sample (eq. 22). Without a teacher v is the data's; with
    ``velocity: TeacherVelocity`` it is distillation. Guidance in training: ``velocity: MixedVelocity``.
    A pretrained student gets the second time by an adapter that does not change it.

    Args:
        times: Law of t and s; the paper's: two logit-normals in order, three quarters of them with s = t.
        coordinates: As of any flow map.
        sampler: Several ``times`` are jumps from each to the next.
        weight: ``error``: ``1 / (error + c)^p`` of the summed squared error, the paper's; ``rms``: ``1 / (rms + c)`` of
            the root mean square of the tangent, NVIDIA's for video (:func:`~fastgen.objectives.flow_maps.rms_weight`).
        c: Floor of the weight; 1e-2 on ImageNet latents, 1e-3 on CIFAR-10; with ``rms`` 10 on Wan.
        power: p of the weight ``error``; 0 is the plain squared error, 1/2 resembles a pseudo-Huber loss.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = SortedTimes(),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        sampler: Sampler = JumpSampler(),
        weight: Literal["error", "rms"] = "error",
        c: float = 1e-2,
        power: float = 1.0,
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-4, beta2=0.95),
        **kwargs: Any,
    ) -> None:
        checks.positive(self, c=c)
        checks.not_negative(self, power=power)
        super().__init__(
            times=times,
            coordinates=coordinates,
            sampler=sampler,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.weight = weight
        self.c = c
        self.power = power

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        u, tangent = self.field_and_tangent(state)
        error = (u - (u + tangent).detach()).square().flatten(1).sum(1)
        self.record("health/mean_flow_error", error.mean())
        rms = self.weight == "rms"
        weight = rms_weight(tangent, self.c) if rms else adaptive_weight(error, self.c, self.power)
        return {"mean_flow": (weight * error).mean()}
