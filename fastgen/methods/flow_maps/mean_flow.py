"""Mean flows."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen.methods.flow_maps.eulerian import EulerianDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.objectives.error_weights import AdaptiveWeight, ErrorWeight
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
        weight: Weight of the summed squared error: the paper's. NVIDIA's for video is ``TangentWeight``.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = SortedTimes(),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        sampler: Sampler = JumpSampler(),
        weight: ErrorWeight = AdaptiveWeight(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-4, beta2=0.95),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            times=times,
            coordinates=coordinates,
            sampler=sampler,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.weight = weight

    def weighted(self, output: Tensor, tangent: Tensor, name: str = "mean_flow") -> Tensor:
        """The mean of ``w |output - sg[output + tangent]|^2``, summed over the elements (B, ...) of a sample."""
        error = (output - (output + tangent).detach()).square().flatten(1).sum(1)
        self.record(f"health/{name}_error", error.mean())
        return (self.weight(error, tangent) * error).mean()

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        return {"mean_flow": self.weighted(*self.field_and_tangent(state))}
