"""Continuous-time consistency models."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from fastgen import checks
from fastgen.denoisers.preconditioning import noise_angle, time_features
from fastgen.errors import UserError
from fastgen.map_times import JumpLaw, ToData
from fastgen.methods.eulerian import EulerianDistiller
from fastgen.methods.flow_map import MapState
from fastgen.methods.velocity import TeacherVelocity, Velocity
from fastgen.objectives.flow_maps import Head, normalised, rcm_tangent, uncertainty_weighted
from fastgen.optimizers import BetasRAdam
from fastgen.processes import Process, TrigFlow


class LogWeight(nn.Module):
    """A learned logarithmic loss weight as a function of the noise level, or of several; starts at 0.

    Args:
        times: Number of noise levels.
        features: Number of frequencies of the time features.
    """

    def __init__(self, times: int = 1, features: int = 16) -> None:
        super().__init__()
        self.features = features
        self.linear = nn.Linear(2 * features * times, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, process: Process, *times: Tensor) -> Tensor:
        """The logarithm w (B,) at times, each (B,)."""
        features = torch.cat([time_features(noise_angle(process, t), self.features) for t in times], dim=1)
        return self.linear(features.to(self.linear.weight.dtype)).squeeze(1).float()


class SCM(EulerianDistiller):
    """sCM: continuous-time consistency in TrigFlow coordinates (Lu & Song 2024, arXiv 2410.11081, algorithm 1).

    ``L = exp(w(t)) / D |F - sg[F + g / (|g| + c)]|^2 - w(t)`` with the tangent

        g = -cos^2 t (sigma_d F - dx/dt) - rho (cos t sin t x_t + sigma_d cos t sin t dF/dt)

    and rho rising to 1. Any network will do: one that lives on another process is seen through TrigFlow. The default
    is sCD, distillation of the guided teacher; sCT, training on data, is ``velocity: DataVelocity``.

    There is no official code; three reimplementations agree on the above. The reduction of the error is the mean over
    elements (1 / D). The networks' own double normalisation of the paper is an architecture and not done here.

    Args:
        times: Law of t; default log-normal levels with mean -1 and deviation 1.4.
        velocity: Default the teacher's.
        coordinates: Default TrigFlow with ``sigma_data``.
        sigma_data: Standard deviation of the data.
        warmup: Student updates until rho is 1; 10000 in the paper.
        warmup_form: ``scm`` as above, or ``rcm``, whose derivative counts from the first update
            (:func:`~fastgen.objectives.flow_maps.rcm_tangent`).
        prior_power: p of a weight ``(sigma_d tan t)^-p`` on the squared norm, before the learned weight: 0 for one
            call, 1 in T2I-Distill (arXiv 2512.13006); weight on low t pays at several calls and costs at one.
        c: Constant of the tangent's normalisation.
        per_element: Normalise by the root mean square of the tangent, for large samples.
        learned_weight: Whether the weight w is learned, else it is 0.
    """

    def __init__(
        self,
        times: JumpLaw | None = None,
        velocity: Velocity | None = None,
        coordinates: Process | None = None,
        sigma_data: float = 0.5,
        warmup: int = 10000,
        warmup_form: Literal["scm", "rcm"] = "scm",
        prior_power: float = 0.0,
        c: float = 0.1,
        per_element: bool = False,
        learned_weight: bool = True,
        student_optimizer: OptimizerCallable = lambda params: BetasRAdam(params, lr=1e-4, beta2=0.99),
        **kwargs: Any,
    ) -> None:
        checks.positive(self, sigma_data=sigma_data, c=c)
        super().__init__(
            times=times or ToData(),
            velocity=velocity or TeacherVelocity(),
            coordinates=coordinates or TrigFlow(sigma_data),
            warmup=warmup,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        checks.not_negative(self, prior_power=prior_power)
        self.sigma_data = sigma_data
        self.warmup_form = warmup_form
        self.prior_power = prior_power
        self.c = c
        self.per_element = per_element
        self.learned_weight = learned_weight

    def build_roles(self) -> None:
        super().build_roles()
        if self.warmup_form == "rcm" and not isinstance(self.coordinates, TrigFlow):
            raise UserError("warmup_form: rcm is written in angles; leave model.init_args.coordinates out.")
        if self.learned_weight:
            self.log_weight = LogWeight()

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"student": [self.student, *([self.log_weight] if self.learned_weight else [])]}

    def tangent(self, weights: Head, x_t: Tensor, velocity: Tensor, field: Tensor, product: Tensor) -> Tensor:
        if self.warmup_form == "scm":
            return super().tangent(weights, x_t, velocity, field, product)
        return rcm_tangent(weights, x_t, velocity, field, product, self.warmth())

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        velocity, tangent = self.field_and_tangent(state)
        self.record("health/tangent_norm", torch.linalg.vector_norm(tangent.flatten(1), dim=1).mean())
        field = velocity / self.sigma_data
        target = (field + normalised(tangent, self.c, self.per_element)).detach()
        error = (field - target).square().flatten(1).mean(1)
        if self.prior_power:
            error = error * self.coordinates.ratio(state.times.t).pow(-self.prior_power)
        if not self.learned_weight:
            return {"consistency": error.mean()}
        log_weight = self.log_weight(self.coordinates, state.times.t)
        return {"consistency": uncertainty_weighted(error, log_weight).mean()}
