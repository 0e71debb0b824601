"""rf++: one reflow is enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastgen import checks
from fastgen.denoisers.wrappers.policy import flow_time
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.methods.trajectories.base import Perceptual
from fastgen.methods.trajectories.reflow import Reflow
from fastgen.objectives.regression import flow_velocity, pseudo_huber_of_size
from fastgen.times import TimeLaw, UShapedTime


class RFPP(Perceptual, Reflow):
    """Improving the Training of Rectified Flows, rf++ (Lee, Lin & Fanti 2024, arXiv 2405.20320; github.com/
    sangyun884/rfpp).

    Reflow once, with times near both ends and, per sample, ``(1 - t) PH(v - (noise - x)) + LPIPS(x0, x) / t``, where
    t = 1 is noise and PH the pseudo-Huber distance divided by its D elements, whose constant is ``c D`` (that is the
    code; other papers take the root of D). Without a perceptual distance it is PH alone, of all times alike: with
    ``1 - t`` the first call would learn nothing.

    The student begins as the teacher, on another process at equal noise level: give it ``RectifiedFlow`` and the
    teacher's weights. Differs: no share of real images that are inverted by the teacher; the improved sampler is not
    here; the law of times is that of the code, ``e^(at) + e^(a(1 - t))``.

    Args:
        c: The pseudo-Huber constant per element.
        time: Law of the noise levels.
        perceptual: Builds the distance of decoded pictures, LPIPS at size 224 in the paper.
    """

    def __init__(
        self,
        c: float = 0.00054,
        time: TimeLaw = UShapedTime(),
        perceptual: Callable[[], PerceptualDistance] | None = None,
        **kwargs: Any,
    ) -> None:
        checks.positive(self, c=c)
        super().__init__(perceptual=perceptual, time=time, **kwargs)
        self.c = c

    def student_loss(self, part: MicroBatch) -> dict[str, Tensor]:
        """Regress the velocity, and look at what it leads to."""
        noise, x0 = self.coupling(part)
        prediction = self.between(part, noise, x0)
        straight = pseudo_huber_of_size(flow_velocity(prediction) - (noise - x0), self.c)
        if self.perceptual is None:
            return {"straightness": straight.mean()}
        t = flow_time(prediction.process, prediction.t).to(straight.dtype)
        looks = self.looks(prediction.x0, x0)
        return {"straightness": ((1.0 - t) * straight).mean(), "perceptual": (looks / t).mean()}
