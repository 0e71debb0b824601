"""Align Your Flow."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.methods.flow_maps.eulerian import EulerianDistiller
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.velocity import TeacherVelocity, Velocity
from fastgen.objectives.flow_maps import normalised
from fastgen.optimizers import BetasAdam
from fastgen.processes import Process, RectifiedFlow
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import GapTimes, JumpLaw


class AYF(EulerianDistiller):
    """Align Your Flow, the Eulerian map distillation (AYF-EMD; Sabour et al. 2025, arXiv 2506.14603; no public code).

    ``L = |F - sg[F - g / (|g| + c)]|^2`` with ``g = (F - v) + rho (t - s) dF/dt`` along the guided teacher's velocity
    v, and rho rising to 0.99 instead of 1: a map that is regularised towards the teacher's own velocity. With rho = 1,
    the data's velocity and no normalisation it is MeanFlow. The last stage beside it is adversarial: ``extras: [GAN]``;
    ``GammaSampler`` is the paper's stochastic sampling.

    Two independent implementations agree on the above; the learning rate and the length of the warm-up are not
    verified. Differs from the paper: the teacher is guided by its null condition at a scale that is drawn and told to
    the student, not by a weaker network; the discriminator of its last stage is not paired.

    Args:
        times: Law of t and s.
        velocity: What moves the state.
        coordinates: As of any flow map.
        sampler: Several ``times`` are jumps from each to the next.
        guidance: Scales from 1 to 3, told to the student.
        warmup: Student updates until rho is at its largest.
        largest: Largest rho.
        c: Constant of the normalisation.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = GapTimes(),
        velocity: Velocity = TeacherVelocity(),
        coordinates: Process | Literal["student"] = RectifiedFlow(),
        sampler: Sampler = JumpSampler(),
        guidance: TeacherGuidance = TeacherGuidance(low=1.0, high=3.0, embedded=True),
        warmup: int = 10000,
        largest: float = 0.99,
        c: float = 0.1,
        student_optimizer: OptimizerCallable = lambda params: BetasAdam(params, lr=1e-4),
        **kwargs: Any,
    ) -> None:
        checks.fraction(self, largest=largest)
        checks.positive(self, c=c)
        super().__init__(
            times=times,
            velocity=velocity,
            coordinates=coordinates,
            sampler=sampler,
            guidance=guidance,
            warmup=warmup,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.largest = largest
        self.c = c

    def warmup_factor(self) -> float:
        return min(self.largest, super().warmup_factor())

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        output, tangent = self.field_and_tangent(state)
        target = (output + normalised(tangent, self.c)).detach()
        return {"flow_map": (output - target).square().flatten(1).sum(1).mean()}
