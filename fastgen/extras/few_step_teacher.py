"""Few-step teacher: the student's own call, made by a better few-step network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.features import feature_shapes, tap, tokens
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.objectives.regression import flow_velocity
from fastgen.sampling.scores import last_call

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class FewStepTeacher(Extra):
    """Output and feature distillation from a few-step teacher (K-DMD of SnapGen++, arXiv 2601.08303).

    ``weight mean (v_expert - v)^2 + feature_weight mean (f_expert - P f)^2`` at the input of the student's own last
    call, with the velocities ``noise - x0`` of rectified flow, features of one layer each and a linear map P that
    learns with the student. The paper's expert is its large teacher with a few-step adapter; the terms have equal
    weights there.

    Args:
        weight: Factor of the term on outputs.
        start: Student update from which it is active.
        network: Builds the expert; ``teacher`` is the method's own.
        feature_weight: Factor of the term on features.
        layer: Module path of the expert's features, e.g. its last block; ``None`` leaves that term out.
        student_layer: Module path of the student's; ``as layer`` is the same.
    """

    expert: Denoiser

    def __init__(
        self,
        weight: float = 1.0,
        start: int = 0,
        network: Callable[[], Denoiser] | Literal["teacher"] = "teacher",
        feature_weight: float = 1.0,
        layer: str | None = None,
        student_layer: str = "as layer",
    ) -> None:
        checks.not_negative(self, feature_weight=feature_weight)
        super().__init__(weight, start)
        self.factory = None if isinstance(network, str) else network
        self.feature_weight = feature_weight
        self.layer = layer
        self.student_layer = layer if student_layer == "as layer" else student_layer

    def build(self, method: Distiller) -> None:
        expert = method.teacher if self.factory is None else method.build(self.factory).requires_grad_(False).eval()
        if expert is None:
            raise UserError("FewStepTeacher has neither a network nor a teacher; give one of them.")
        object.__setattr__(self, "expert", expert)  # no submodule: it is not saved
        self.projection = nn.ModuleList()
        if self.layer is not None and self.student_layer is not None:
            wanted, own = feature_shapes(expert, [self.layer]), feature_shapes(method.student, [self.student_layer])
            self.projection.append(nn.Linear(channels(own[0]), channels(wanted[0])))

    def trained_modules(self) -> dict[str, list[nn.Module]]:
        return {"student": [self.projection]}

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        rollout, process = method.rollout(part, "student"), method.student.process
        made = last_call(rollout)
        x_t, layers = made.x_t.detach(), [] if self.layer is None else [self.layer]
        if next(self.expert.parameters(), x_t).device != x_t.device:
            self.expert.to(x_t.device)
        with torch.no_grad(), tap(self.expert.backbone, layers) as wanted:
            known = method.role_condition(part, "teacher", rollout.condition)
            target = flow_velocity(on_process(self.expert, process)(x_t, made.t, known))
        found = {"output": self.weight * (flow_velocity(made) - target).square().mean()}
        if self.layer is not None and self.student_layer is not None:
            told = method.student_condition(rollout.condition, part.draws.scoped("expert"))
            with tap(method.student.backbone, [self.student_layer]) as own:
                method.student(x_t, made.t, told)
            mapped = self.projection[0](tokens(own[self.student_layer]))
            apart = mapped - tokens(wanted[self.layer]).to(mapped.dtype)
            found["features"] = self.feature_weight * apart.square().mean()
        return found


def channels(shape: tuple[int, ...]) -> int:
    """The number of channels of a map (C, H, W), tokens (L, C) or a vector (C,)."""
    return shape[0] if len(shape) == 3 else shape[-1]
