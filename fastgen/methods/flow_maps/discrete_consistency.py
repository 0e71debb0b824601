"""DiscreteConsistency: the student agrees with itself a short step further along the flow."""

from __future__ import annotations

from abc import ABC
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.flow_maps.base import FlowMapDistiller
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.transition import SameNoise, Transition
from fastgen.objectives.metrics import Metric, PseudoHuber
from fastgen.objectives.tangents import same_randomness
from fastgen.objectives.weights import JumpWeight, StepWeight
from fastgen.times import EasyTimes, JumpLaw


class DiscreteConsistency(FlowMapDistiller, ABC):
    """``L = w d(f(x_t, t -> s), sg f-(x_r, r -> s))``: the bootstrap rule (Song et al. 2023, arXiv 2303.01469).

    ``x_r`` is one step of a :class:`Transition` from ``x_t``. Where r = s the target is ``x_r`` itself. Dropout masks
    of student and target are the same.

    Args:
        times: Law of t, r and s.
        transition: How ``x_r`` follows from ``x_t``.
        metric: d.
        weight: w, by the noise levels of t and r.
    """

    def __init__(
        self,
        times: JumpLaw = EasyTimes(),
        transition: Transition = SameNoise(),
        metric: Metric = PseudoHuber(),
        weight: JumpWeight = StepWeight(),
        **kwargs: Any,
    ) -> None:
        super().__init__(times=times, **kwargs)
        self.transition = transition
        self.metric = metric
        self.weight = weight

    def needs_teacher(self) -> bool:
        return self.transition.needs_teacher or self.states.needs_teacher

    def state(self, part: MicroBatch) -> MapState:
        return replace(super().state(part), draws=part.draws.scoped("student/transition"))

    def loss_weight(self, state: MapState) -> Tensor:
        """The weight w (B,), fp64."""
        return self.weight.between(*(self.coordinates.ratio(t) for t in (state.times.t, state.times.r)))

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        """The distance d (B,) of where the student's jump ends from the target, both (B, ...)."""
        return self.metric(output, target)

    @torch.no_grad()
    def bootstrap(self, state: MapState) -> Tensor:
        """The target at ``s``, (B, ...)."""
        r, s = state.times.r, state.times.s
        x_r = self.transition.step(self.networks, state)
        arrived = r <= s
        # No network is called at the clean end; those rows ask for another time and are replaced.
        asked = torch.where(arrived, state.times.t, r)
        with same_randomness(x_r.device):
            jumped = self.coordinates.jump(self.predict(self.target_network(), x_r, asked, s, state), s)
        return torch.where(arrived.reshape(-1, *[1] * (x_r.ndim - 1)), x_r, jumped)

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        target = self.bootstrap(state)
        t, s = state.times.t, state.times.s
        output = self.coordinates.jump(self.predict(self.student, state.x_t, t, s, state), s)
        distance = self.distance(output, target)
        return {"consistency": (self.loss_weight(state).to(distance.dtype) * distance).mean()}
