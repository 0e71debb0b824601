"""Multi-student distillation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.conditions import Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.routed import LabelRouter, Routed, Router
from fastgen.errors import UserError
from fastgen.methods.distribution_matching.dmd2 import DMD2
from fastgen.optimizers import BetasAdamW


class MSD(DMD2):
    """Multi-Student Distillation: one-step students that share the conditions (Song et al. 2024, arXiv 2410.23274).

    Each of several students, and its critic, learns from its own part of the conditions what DMD2 teaches, so a sample
    costs one student's call, and several small students know as much as a large one. They are trained together here and
    lie in one checkpoint; ``fastgen export --role average/NUMBER`` writes each as a pipeline of its own. A GAN (the
    paper's second stage) is an extra on the teacher's features. Students smaller than the teacher begin as
    :class:`~fastgen.methods.TSM` left them (``--init_from``); others begin as the teacher.

    Differs from the paper (a summary of which was read; no code): its runs are apart, here a batch has samples of all
    parts, so each student sees its share of it, and ``gradient_clip`` is over all. Paired regression stays out: it has
    to be shared by the parts. Prompts are parted by their nearest of some, where the paper clusters embeddings.

    Args:
        router: How conditions are parted, and in how many.
        guidance: Guidance scales; a critic is asked about its own conditions only.
        student_optimizer: Builds the students' optimizer.
        critic_optimizer: Builds the critics' optimizer.
    """

    student: Routed
    critic: Routed

    def __init__(
        self,
        router: Router = LabelRouter(),
        guidance: Guidance = Guidance(),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6),
        **kwargs: Any,
    ) -> None:
        if (guidance.critic, guidance.critic_training, guidance.condition_dropout) != (1.0, 1.0, 0.0):
            raise UserError(
                "MSD has a critic for each part of the conditions and none for no condition; leave guidance.critic and "
                "guidance.critic_training at 1, and condition_dropout at 0."
            )
        super().__init__(
            guidance=guidance, student_optimizer=student_optimizer, critic_optimizer=critic_optimizer, **kwargs
        )
        self.router = router

    def build_role(self, role: str) -> Denoiser:
        network = super().build_role(role)
        if isinstance(network, Routed):
            raise UserError(f"MSD parts its {role} itself; give one network.")
        if role == "student" and self.teacher is None:
            self.codec = network.make_codec().requires_grad_(False).eval()
        return Routed.copies(network, self.router, self.codec)
