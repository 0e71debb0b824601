"""Continuous-time consistency models."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from fastgen import checks
from fastgen.denoisers.networks.log_weight import LogWeight
from fastgen.errors import UserError
from fastgen.methods.flow_maps.eulerian import EulerianDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.velocity import TeacherVelocity, Velocity
from fastgen.objectives.flow_maps import Head, normalised, rcm_tangent, uncertainty_weighted
from fastgen.optimizers import BetasRAdam
from fastgen.processes import Process, TrigFlow
from fastgen.times import JumpLaw, ToData


class SCM(EulerianDistiller):
    """sCM: continuous-time consistency in TrigFlow coordinates (Lu & Song 2024, arXiv 2410.11081, algorithm 1).

    ``L = exp(w(t)) / D |F - sg[F + g / (|g| + c)]|^2 - w(t)`` with the tangent

        g = -cos^2 t (sigma_d F - dx/dt) - rho (cos t sin t x_t + sigma_d cos t sin t dF/dt)

    and rho rising to 1. Any network will do: one that lives on another process is seen through TrigFlow. The default
    is sCD, distillation of the guided teacher; sCT, training on data, is ``velocity: DataVelocity``.

    There is no official code; three reimplementations agree on the above. The reduction of the error is the mean over
    elements (1 / D). The networks' own double normalisation of the paper is an architecture and not done here.

    Args:
        times: Law of t.
        velocity: What moves the state.
        coordinates: As of any flow map; ``trig`` is TrigFlow with ``sigma_data``.
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
        times: JumpLaw = ToData(),
        velocity: Velocity = TeacherVelocity(),
        coordinates: Process | Literal["student", "trig"] = "trig",
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
            times=times,
            velocity=velocity,
            coordinates=TrigFlow(sigma_data) if coordinates == "trig" else coordinates,
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
        return rcm_tangent(weights, x_t, velocity, field, product, self.warmup_factor())

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
