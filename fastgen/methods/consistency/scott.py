"""Stochastic consistency distillation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.distiller.averaging import ConstantEMA
from fastgen.methods.consistency.sde_step import SDEStep
from fastgen.methods.flow_maps.lcm import LCM
from fastgen.methods.flow_maps.targets import EMATarget, TargetNetwork
from fastgen.methods.flow_maps.transition import Transition
from fastgen.optimizers import BetasAdamW
from fastgen.times import GridTimes, JumpLaw


class SCott(LCM):
    """SCott, stochastic consistency distillation (Liu et al. 2024, arXiv 2403.01505; no official code).

    Latent consistency distillation in which the teacher moves by a stochastic solver: three steps with fresh noise,
    over 24 of the 1000 indices. The paper's discriminator is the extra ``GAN`` with hinge losses, the weight 0.4 and an
    adapter of its own (``features: own``, ``network: LoRA``).

    Not verified against a source: the share of the noise (0, 0.1, 0.2, 0.3 and 0.6 were compared) and the norm.

    Args:
        times: Law of t and r: three steps apart on 125 times.
        transition: Three steps with the share 0.3 of the noise.
        target: An average with the decay 0.95.
    """

    def __init__(
        self,
        times: JumpLaw = GridTimes(125, skip=3),
        transition: Transition = SDEStep(),
        target: TargetNetwork = EMATarget(ConstantEMA(0.95)),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=8e-6, decay=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            times=times, transition=transition, target=target, student_optimizer=student_optimizer, **kwargs
        )
