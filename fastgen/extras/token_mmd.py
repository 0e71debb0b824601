"""Token discrepancy: inside a network the student's pictures look like real ones, on the mean over their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fastgen.conditions import concatenate
from fastgen.denoisers.wrappers.features import tap, tokens
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.objectives.mmd import MeanGap, SetDistance
from fastgen.times import FlowTime, TimeLaw

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class TokenMMD(Extra):
    """SwD's patch loss (Starodubcev et al. 2025, arXiv 2503.16397; github.com/yandex-research/swd).

    The student's samples and real ones get the same noise; a network's features of both, the tokens of each picture,
    are compared by their means: ``mean (sqrt((mean_l a_l - mean_l b_l)^2 + c^2) - c)``, a discrepancy with a linear
    kernel; or, as the code can too, by all of their law with radial basis functions of bandwidth 100 (``distance:
    Discrepancy``). Pair by pair: the real sample is the one that the student's was made from. The gradient runs into
    the student's sample alone.

    Args:
        weight: Factor of the term.
        start: Student update from which it is active.
        features: Whose: the critic's or the teacher's.
        layer: Module path of the features (block 11 of SD3.5 medium in the code); ``bottleneck`` is where the network
            is narrowest.
        time: Law of the noise levels: steps 18 to 27 of SD3's 28.
        distance: How far the tokens of the two pictures of a pair are apart.
    """

    reads_others = True

    def __init__(
        self,
        weight: float = 1.0,
        start: int = 0,
        features: Literal["critic", "teacher"] = "critic",
        layer: str = "bottleneck",
        time: TimeLaw = FlowTime(1 / 28, 10 / 28, 3.0),
        distance: SetDistance = MeanGap(),
    ) -> None:
        super().__init__(weight, start)
        self.features = features
        self.layer = layer
        self.time = time
        self.distance = distance

    def build(self, method: Distiller) -> None:
        if getattr(method, self.features, None) is None:
            raise UserError(f"TokenMMD reads features of the {self.features}, which this method does not have.")

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        rollout, process = method.rollout(part, "student"), method.student.process
        real = method.real_samples(part, rollout)
        if real is None:
            raise UserError("The TokenMMD extra needs real samples; the data module gives none ('x0' is missing).")
        network = getattr(method, self.features)
        layer = network.feature_path if self.layer == "bottleneck" else self.layer
        draws, x0 = part.draws.scoped("student/tokens"), rollout.x0
        t, noise = self.time.sample(draws, process), draws.normal("noise", x0.shape[1:], x0.dtype)
        noisy = [process.add_noise(x, noise, t) for x in (x0, real.to(x0.dtype))]
        both = concatenate([rollout.condition, part.condition])
        with tap(network.backbone, [layer], "left out") as found:
            on_process(network, process)(torch.cat(noisy), t.repeat(2), both)
        made, wanted = tokens(found[layer]).chunk(2)
        return {"tokens": self.weight * self.distance(made, wanted.detach())}
