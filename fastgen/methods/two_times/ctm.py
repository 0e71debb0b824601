"""Consistency trajectory models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.distiller.averaging import ConstantEMA
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.consistency.perceptual import PerceptualConsistency
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.methods.flow_maps.transition import TeacherWalk, Transition
from fastgen.methods.two_times.balance import GradientBalance, last_layer
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.objectives.score_matching import DenoisingLoss
from fastgen.objectives.tangents import same_randomness
from fastgen.objectives.weights import JumpWeight, UniformWeight
from fastgen.optimizers import BetasRAdam
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import JumpSampler, Sampler
from fastgen.times import JumpLaw, LogNormalLevel, SubGridTimes, TimeLaw


class CTM(PerceptualConsistency):
    """Consistency trajectory models (Kim et al. 2023, arXiv 2310.02279; github.com/sony/ctm).

    ``L = d(G-(G(x_t, t -> s), s -> 0), sg G-(G(x_r, r -> s), s -> 0))``: the teacher walks several grid steps from t to
    r, the student jumps on to s, and both ends are compared where the averaged student G- takes them on clean data; the
    gradient runs through G-, which is frozen. Beside it the student denoises at s = t, with a weight for which both
    terms pull equally hard at the last layer. In the paper d is LPIPS (``perceptual``). Its second stage is a
    discriminator: ``extras: [VisionGAN]`` or ``GAN`` judge those clean ends too.

    Differs from the code: the weight of the denoising is the ratio of the update before, so that it does not depend on
    how a batch is cut; that of the discriminator is a constant; the grid ends at clean data, not at ``sigma_min``.

    Args:
        times: Law of t, r and s on the grid.
        transition: The teacher's walk from t to r on the same grid.
        metric: d, where ``perceptual`` is not given.
        weight: Of the jump.
        target: G-.
        sampler: Several ``times`` are jumps from each to the next; ``GammaSampler`` is the paper's gamma-sampling.
        denoising_weight: Factor of the denoising term beside the balance of the two; 0 for none.
        denoising_time: Law of its noise levels.
        denoising: Its error.
    """

    two_times = True

    def __init__(
        self,
        times: JumpLaw = SubGridTimes(),
        transition: Transition = TeacherWalk(),
        metric: Metric = SquaredError(),
        weight: JumpWeight = UniformWeight(),
        target: TargetNetwork = EMATarget(ConstantEMA(0.999)),
        sampler: Sampler = JumpSampler(),
        denoising_weight: float = 1.0,
        denoising_time: TimeLaw = LogNormalLevel(),
        denoising: DenoisingLoss = DenoisingLoss(),
        student_optimizer: OptimizerCallable = lambda params: BetasRAdam(params, lr=4e-4),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, denoising_weight=denoising_weight)
        super().__init__(
            times=times,
            transition=transition,
            metric=metric,
            weight=weight,
            target=target,
            sampler=sampler,
            student_optimizer=student_optimizer,
            **kwargs,
        )
        self.denoising_weight = denoising_weight
        self.denoising_time = denoising_time
        self.denoising = denoising

    def build_roles(self) -> None:
        super().build_roles()
        self.balance = GradientBalance()

    def on_clean_data(self, x_s: Tensor, state: MapState) -> Tensor:
        """Where the target network takes ``x_s`` (B, ...) from ``s``."""
        s, clean = state.times.s, torch.full_like(state.times.s, self.coordinates.t_clean)
        arrived = s <= clean
        # No network is called at the clean end; those rows ask for another time and are replaced.
        asked = torch.where(arrived, state.times.t, s)
        with same_randomness(x_s.device):
            ends = self.coordinates.jump(self.predict(self.target_network(), x_s, asked, clean, state), clean)
        return torch.where(arrived.reshape(-1, *[1] * (x_s.ndim - 1)), x_s, ends)

    def estimate(self, state: MapState) -> Tensor:
        """The end on clean data, (B, ...), of the student's jump from t to s."""
        t, s = state.times.t, state.times.s
        x_s = self.coordinates.jump(self.predict(self.student, state.x_t, t, s, state), s)
        return self.on_clean_data(x_s, state)

    def make_rollout(self, part: MicroBatch, role: str, condition: Condition) -> Rollout:
        """The clean ends that losses and discriminators judge."""
        state = self.state(part)
        x0 = self.estimate(state)
        return Rollout(x0, state.condition, state.times.t, 0, x0, torch.full_like(state.times.t, 0.0))

    @torch.no_grad()
    def bootstrap(self, state: MapState) -> Tensor:
        """The target on clean data, (B, ...): the teacher to r, the student to s, the target network to the end."""
        r, s = state.times.r, state.times.s
        with same_randomness(state.x_t.device):
            x_r = self.transition.step(self.networks, state)
        arrived = r <= s
        asked = torch.where(arrived, state.times.t, r)
        with same_randomness(x_r.device):
            jumped = self.coordinates.jump(self.predict(self.student, x_r, asked, s, state), s)
        return self.on_clean_data(torch.where(arrived.reshape(-1, *[1] * (x_r.ndim - 1)), x_r, jumped), state)

    def denoising_loss(self, part: MicroBatch, state: MapState) -> Tensor:
        """The student's error as a denoiser, s = t, at noise of its own."""
        draws, x0 = part.draws.scoped("student/denoising"), state.datum(self)
        t = self.denoising_time.sample(draws, self.coordinates).clamp(max=self.t_max)
        noise = draws.normal("noise", x0.shape[1:], x0.dtype)
        prediction = self.predict(self.student, self.coordinates.add_noise(x0, noise, t), t, t, state)
        return self.denoising(prediction, x0, noise)

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Jump, walk, compare; denoise."""
        state = self.state(part)
        ends = self.rollout(part, "student").x0
        jump = (self.loss_weight(state) * self.distance(ends, self.bootstrap(state))).mean()
        if self.denoising_weight == 0.0:
            return {"consistency": jump}
        denoising = self.denoising_loss(part, state)
        self.balance.see(jump, denoising, last_layer(self.student))
        return {"consistency": jump, "denoising": self.denoising_weight * self.balance.ratio * denoising}

    def before_update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        super().before_update(role, parts)
        self.balance.begin()

    def after_update(self, role: str) -> None:
        super().after_update(role)
        if role == "student":
            self.balance.settle(lambda total: self.trainer.strategy.reduce(total, reduce_op="mean"))
