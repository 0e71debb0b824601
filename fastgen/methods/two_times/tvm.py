"""Terminal velocity matching."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from fastgen import checks
from fastgen.distiller.averaging import ConstantEMA
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.methods.flow_maps.self_distillation import LSD
from fastgen.methods.flow_maps.state import MapState
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.optimizers import BetasAdamW
from fastgen.times import JumpLaw, LogitNormalTime, SortedTimes, TimeLaw


class TVM(LSD):
    """Terminal velocity matching (arXiv 2511.19797; github.com/lumalabs/tvm), at the guidance scale 1.

    Two means of squared errors on every sample: where a jump ends it must move as the averaged student says,
    ``|df/ds - sg[F-(f, s, s)]|^2``, with a gradient through the derivative in s; and the student's own velocity at
    another time of the same noise is the data's. It is ``LSD`` with an average as the target, without a learned
    weight, and with the flow on all samples.

    Differs from the code: no guidance scale as an input of the student (there beta = 1 / w); the two times of a jump
    are those of ``times``, not a truncated law below a drawn gap. It needs networks whose derivative in s is bounded.

    Args:
        times: Law of t and s.
        target: Who says how the ends move.
        flow_time: Law of the times at which the own velocity learns.
        flow_weight: Factor of that term.
        condition_dropout: Probability of training on the null condition.
    """

    def __init__(
        self,
        times: JumpLaw = SortedTimes(LogitNormalTime(-0.4, 1.0), diagonal=0.0),
        target: TargetNetwork = EMATarget(ConstantEMA(0.99)),
        flow_time: TimeLaw = LogitNormalTime(-0.4, 1.0),
        flow_weight: float = 1.0,
        condition_dropout: float = 0.1,
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-4, beta2=0.95),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, flow_weight=flow_weight)
        super().__init__(
            times=times,
            target=target,
            condition_dropout=condition_dropout,
            student_optimizer=student_optimizer,
            learned_weight=False,
            **kwargs,
        )
        self.flow_time = flow_time
        self.flow_weight = flow_weight

    def own_velocity_error(self, part: MicroBatch, state: MapState) -> Tensor:
        """The error of the student's velocity at another time of the same noise."""
        t = self.flow_time.sample(part.draws.scoped("student/flow"), self.coordinates).clamp(max=self.t_max)
        x_t = self.coordinates.add_noise(state.datum(self), state.noise, t)
        velocity = self.velocity.at(self.networks, x_t, t, state)
        return (self.predict(self.student, x_t, t, t, state).velocity - velocity).square().mean()

    def map_loss(self, state: MapState) -> dict[str, Tensor]:
        return {"terminal": self.residual(state).square().mean()}

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """The ends of jumps, and the flow."""
        state = self.state(part)
        return self.map_loss(state) | {"flow": self.flow_weight * self.own_velocity_error(part, state)}
