"""Teacher score matching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.guided import guided
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.denoisers.wrappers.routed import Routed, Router
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods.teachers.teacher import TeacherTraining


class TSM(TeacherTraining):
    """Teacher score matching: a smaller network learns to denoise as the teacher does.

    ``lambda(t) |mu_student(x_t) - mu_teacher(x_t)|^2`` at noised real samples, many steps, before a distillation to few
    (MSD, Song et al. 2024, arXiv 2410.23274: without it students 42 % smaller end at FID 11.67 instead of 2.88).

    Args:
        student: Builds the network, in any architecture.
        router: As of the :class:`~fastgen.methods.MSD` that follows with ``--init_from``: a network for each part of
            the conditions; ``None`` for one network.
        guidance: Guidance scale of the teacher.
        condition_dropout: Probability of learning the teacher's answer to no condition.
    """

    def __init__(
        self,
        student: Callable[[], Denoiser],
        router: Router | None = None,
        guidance: float = 1.0,
        condition_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, guidance=guidance)
        if router is not None and condition_dropout:
            raise UserError("TSM: no student of a router knows no condition; leave condition_dropout at 0.")
        super().__init__(student=student, condition_dropout=condition_dropout, **kwargs)
        self.router = router
        self.guidance = guidance

    def build_role(self, role: str) -> Denoiser:
        if self.teacher is None:
            raise UserError("TSM needs a teacher; give model.init_args.teacher.")
        network = super().build_role(role)
        return network if self.router is None else Routed.copies(network, self.router, self.codec)

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Answer as the teacher."""
        assert self.teacher is not None  # build_role
        process, x_t, t, _, condition = self.noised(part)
        with torch.no_grad():
            target = guided(on_process(self.teacher, process), x_t, t, condition, self.guidance)
        return {"matching": self.objective(self.student(x_t, t, condition), target.x0, target.noise)}
