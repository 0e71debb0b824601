"""Motion consistency models."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from fastgen import checks
from fastgen.distiller.averaging import ConstantEMA
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.consistency.motion import LearnedMotion, Motion, MotionForm
from fastgen.methods.flow_maps.lcm import LCM
from fastgen.methods.flow_maps.sources import RealData, StateSource
from fastgen.methods.flow_maps.state import MapNetworks, MapState
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.optimizers import BetasAdamW
from fastgen.precision import KeepsPrecision


@dataclass(frozen=True)
class OwnSamples(StateSource):
    """Real samples under noise, for a share of the batch replaced by what the student makes of noise in one call.

    Args:
        share: Probability of the student's own.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        checks.fraction(self, share=self.share)

    @torch.no_grad()
    def state(self, networks: MapNetworks, part: MicroBatch, pure: MapState) -> MapState:
        draws, process = part.draws.scoped("student/own"), networks.coordinates
        x = draws.normal("noise", pure.noise.shape[1:], pure.noise.dtype)
        t = torch.full_like(pure.times.t, networks.t_max)
        clean = torch.full_like(t, process.t_clean)
        own = networks.predict(networks.student, process.start(x, t), t, clean, pure).x0.to(x.dtype)
        if self.share < 1.0:
            real = RealData().state(networks, part, pure).datum(self)
            chosen = (draws.uniform("own") < self.share).reshape(-1, *[1] * (x.ndim - 1))
            own = torch.where(chosen, own, real)
        return replace(pure, x_t=process.add_noise(own, pure.noise, pure.times.t), x0=own)


class KeptMotion(KeepsPrecision, nn.ModuleList):
    """The average of a representation of motion, in fp32."""


class MCM(LCM):
    """Motion consistency models (Zhai et al. 2024, arXiv 2406.06890; github.com/yhZhai/mcm), for clips.

    Latent consistency distillation of what a clip *moves*: student and average are compared after a representation of
    motion, by default a small head on each frame that learns with the student (its average makes the target's). How
    frames *look* is left to an adversarial term, the extra ``GAN`` or ``VisionGAN``, whose real samples may be better
    than the clips. Half of the states are made of the student's own one-call samples, as when it generates.

    Differs: the appearance comes from the same data module as the clips; the last grid time is pure noise on every
    process that ends there.

    Args:
        motion: Representation of motion.
        head_decay: Decay of the average of a learned representation.
        states: Where the points come from: half of the data, half of the student's own samples.
        target: An average with the decay 0.95.
    """

    motion: Motion
    kept_motion: KeptMotion

    def __init__(
        self,
        motion: MotionForm = LearnedMotion(),
        head_decay: float = 0.95,
        states: StateSource = OwnSamples(),
        target: TargetNetwork = EMATarget(ConstantEMA(0.95)),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=5e-6, decay=0.0),
        **kwargs: Any,
    ) -> None:
        checks.between(self, 0.0, 1.0, "[)", head_decay=head_decay)
        super().__init__(states=states, target=target, student_optimizer=student_optimizer, **kwargs)
        self.motion_form = motion
        self.head_decay = head_decay

    def build_roles(self) -> None:
        super().build_roles()
        self.motion = self.motion_form.build(self.student.sample_shape)
        self.kept_motion = KeptMotion([copy.deepcopy(self.motion).requires_grad_(False)])

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        learned: list[nn.Module] = [self.motion] if list(self.motion.parameters()) else []
        return {"student": [self.student, *learned]}

    def after_update(self, role: str) -> None:
        super().after_update(role)
        if role == "student":
            self.follow_motion()

    @torch.no_grad()
    def follow_motion(self) -> None:
        """Move the average of the representation."""
        for kept, current in zip(self.kept_motion.parameters(), self.motion.parameters(), strict=True):
            kept.lerp_(current, 1.0 - self.head_decay)

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.kept_motion[0](target)
        return self.metric(self.motion(output), wanted)
