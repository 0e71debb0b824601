"""A student beside its teacher."""

from __future__ import annotations

from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.base import Wrapper
from fastgen.denoisers.wrappers.guided import guided
from fastgen.processes import Prediction


class WithTeacher(Wrapper):
    """A student beside its guided teacher, for samplers that ask both; as a denoiser it is the student.

    Args:
        student: The network that is sampled.
        teacher: The one that helps.
        guidance: Its guidance scale.
    """

    def __init__(self, student: Denoiser, teacher: Denoiser, guidance: float = 1.0) -> None:
        super().__init__(student)
        self.student = student
        self.guidance = guidance
        object.__setattr__(self, "teacher", teacher)  # its owner moves it

    teacher: Denoiser

    @property
    def wrapped(self) -> Denoiser:
        return self.student

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition | None = None, s: Tensor | None = None
    ) -> Prediction:
        return self.student(x_t, t, condition, s)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        return self.forward(x_t, t, condition, s).value

    def ask_teacher(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """What the guided teacher says, by its family's own rule."""
        return guided(self.teacher, x_t, t, condition, self.guidance)
