"""Paired regression: what the teacher's solver made of a noise, the student should make of it too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.distiller.extra import Extra
from fastgen.extras.frozen import beside, keep_frozen
from fastgen.objectives.metrics import Metric, SquaredError
from fastgen.storage.files import resolve
from fastgen.storage.pair_folder import PairFolder

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch


class PerceptualDistance(nn.Module, ABC):
    """How differently two pictures look. Its weights are frozen and enter no checkpoint."""

    @abstractmethod
    def forward(self, samples: Tensor, targets: Tensor) -> Tensor:
        """Distances (B,) of images (B, C, H, W), nominally in [-1, 1], differentiable in ``samples``."""


class LPIPS(PerceptualDistance):
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924), version 0.1; grey images are repeated.

    Args:
        backbone: ``vgg`` (usual for training), ``alex`` or ``squeeze``.
        weights: torchvision's file of the backbone; ``None`` to take it from PyTorch's cache or download it.
        size: Height and width to which images are resampled first, bilinearly; at least 32.
    """

    def __init__(
        self,
        backbone: Literal["alex", "vgg", "squeeze"] = "vgg",
        weights: str | None = None,
        size: int | Literal["as is"] = "as is",
    ) -> None:
        super().__init__()
        from fastgen.metrics.extractors.lpips import SMALLEST, Lpips

        checks.whole(self, SMALLEST, size=None if isinstance(size, str) else size)
        self.size = size
        self.network = Lpips(backbone, weights).network

    def forward(self, samples: Tensor, targets: Tensor) -> Tensor:
        both = torch.cat([samples, targets])
        if not isinstance(self.size, str):
            both = F.interpolate(both, (self.size, self.size), mode="bilinear", antialias=True)
        return self.network(*both.expand(-1, 3, -1, -1).chunk(2))


AT_HAND = "at hand"
"""In place of a folder of pairs."""


class PairedRegression(Extra):
    """``weight * d(G(noise), x0)`` over pairs of noise and what the teacher's solver makes of it.

    The regression of DMD (Yin et al. 2023, arXiv 2311.18828, eq. 9; weight 0.25, LPIPS on decoded images), beside any
    loss. It ties each noise to one sample and so keeps all modes. One call, or samplers without fresh noise between
    calls; fresh noise has no pair.

    Args:
        weight: Factor of the term.
        start: Student update from which it is active.
        pairs: A folder that ``fastgen pairs`` wrote; each sample of a batch brings one of its pairs, drawn at random.
            ``at hand`` are those that the data module gives (``Pairs``), and where it gives none, the teacher's solver
            makes them in every update.
        metric: d, in the denoiser's own space.
        perceptual: Builds a d of decoded images in its place, e.g. ``{class_path: LPIPS}``.
    """

    distance: PerceptualDistance

    def __init__(
        self,
        weight: float = 0.25,
        start: int = 0,
        pairs: str = AT_HAND,
        metric: Metric = SquaredError(scale=0.5),
        perceptual: Callable[[], PerceptualDistance] | None = None,
    ) -> None:
        super().__init__(weight, start)
        self.path = pairs
        self.metric = metric
        self.factory = perceptual

    def build(self, method: Distiller) -> None:
        self.folder = None if self.path == AT_HAND else PairFolder(resolve(self.path))
        if self.factory is not None:
            keep_frozen(self, "distance", self.factory)

    def pairs(self, method: Distiller, part: MicroBatch) -> tuple[Tensor, Tensor, Condition]:
        """Noise (B, ...), the solver's x0 (B, ...) and what it was asked for."""
        if self.folder is None:
            return *method.pair(part), part.condition
        chosen = part.draws.scoped("paired").integers("pair", self.folder.count)
        noise, x0, condition = self.folder.pairs(chosen.tolist())
        device, dtype = part.draws.device, method.noise_dtype()
        moved = {name: value.to(device) for name, value in condition.items()}
        return noise.to(device, dtype), x0.to(device, dtype), moved

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        noise, x0, condition = self.pairs(method, part)
        draws = part.draws.scoped("paired")
        told = method.student_condition(condition, draws)
        made = method.rollout_sampler().rollout(method.student, draws, told, noise.dtype, noise).x0
        if self.factory is None:
            return {"paired": self.weight * self.metric(made, x0).mean()}
        with torch.no_grad():
            target = method.codec.decode(x0).float()
        with torch.autocast(x0.device.type, enabled=False):
            distances = beside(self.distance, x0)(method.codec.decode(made).float(), target)
        return {"paired": self.weight * distances.mean()}
