"""Perceptual distances between samples: how different those of one condition are, how close to their teacher's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.utilities.data import dim_zero_cat

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.extractors.lpips import Backbone, Lpips
from fastgen.metrics.samples.picture_metric import PictureMetric, Pictures
from fastgen.results.kinds import BOOKKEEPING, Kind

BLOCK = 32
"""Pairs per call of the network."""


def number_of(*parts: object) -> int:
    """63 bits of the sha256 of ``parts``: the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class PairwiseLPIPS(PictureMetric):
    """Mean LPIPS between samples of one condition, made from several seeds; gives ``lpips_diversity``.

    The diversity of Yin et al. 2024 (DMD2, arXiv 2405.14867, its SDXL table, there at 512 pixels): 0 for a sampler that
    answers a prompt with one picture. A coverage number: noise scores high.

    Only ``conditions`` conditions with ``seeds`` samples each are kept, those with the smallest hash of their content
    or number, so that memory is bounded and the choice depends neither on the order of the samples nor on the number of
    ranks. Without conditions the samples are dealt to ``conditions`` groups.

    Args:
        backbone: ``alex``, ``vgg`` or ``squeeze``.
        weights: torchvision's file of the backbone; ``None`` to take it from PyTorch's cache or download it.
        size: Samples are resized to this height and width first.
        conditions: Number of conditions.
        seeds: Samples of each.
    """

    numbers = {"lpips_diversity": Kind("coverage", "higher"), "lpips_condition_count": BOOKKEEPING}
    images: list[Tensor] | Tensor
    groups: list[Tensor] | Tensor
    keys: list[Tensor] | Tensor

    def __init__(
        self,
        backbone: Backbone = "alex",
        weights: str | None = None,
        size: int = 256,
        conditions: int = 50,
        seeds: int = 4,
    ) -> None:
        checks.whole(self, 32, checks.LARGEST_SIDE, size=size)
        checks.whole(self, conditions=conditions)
        checks.whole(self, 2, seeds=seeds)
        super().__init__()
        self.lpips = Lpips(backbone, weights)
        self.size = size
        self.conditions = conditions
        self.seeds = seeds
        for name in ("images", "groups", "keys"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def load(self) -> None:
        """Read the network."""
        self.lpips.load()

    def observe(self, batch: Pictures) -> None:
        """Take in pictures, those of one prompt or label as one group."""
        self.update(batch.images, batch.label if batch.prompt is None else batch.prompt, batch.seeds)

    def update(
        self, samples: Tensor, label: Tensor | Sequence[Any] | None = None, seeds: Sequence[int] | None = None
    ) -> None:
        """Add images.

        Args:
            samples: uint8 (N, 3, H, W) or (N, 1, H, W).
            label: N labels or prompts, or ``None``.
            seeds: What the samples were made from, N numbers, no two alike; without them their content decides which
                are kept, and identical ones are kept or dropped together.
        """
        if not len(samples):
            return
        if isinstance(label, Tensor):
            label = label.tolist()
        names = [None] * len(samples) if label is None else list(label)
        keys, groups = [], []
        for row, image in enumerate(samples):
            key = number_of(image.cpu().numpy().tobytes() if seeds is None else int(seeds[row]))
            keys.append(key)
            groups.append(number_of(key % self.conditions) if names[row] is None else number_of(names[row]))
        images = samples.expand(-1, 3, -1, -1).to(self.device).float()
        if images.shape[2:] != (self.size, self.size):
            images = functional.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True)
        images = images.round().clamp(0, 255).to(torch.uint8)
        self._keep(images, torch.tensor(groups, device=self.device), torch.tensor(keys, device=self.device))

    def _keep(self, images: Tensor, groups: Tensor, keys: Tensor) -> None:
        """Add rows and drop what the whole set would drop as well."""
        images, groups, keys = (
            dim_zero_cat([*([old] if isinstance(old, Tensor) else old), new])
            for old, new in ((self.images, images), (self.groups, groups), (self.keys, keys))
        )
        order = torch.argsort(keys)  # within a group the smallest keys come first ...
        order = order[torch.argsort(groups[order], stable=True)]  # ... and the smallest groups
        counts = groups[order].unique_consecutive(return_counts=True)[1]
        starts = counts.cumsum(0) - counts
        kept = [order[start : start + min(int(n), self.seeds)] for start, n in zip(starts, counts, strict=True)]
        rows = torch.cat(kept[: self.conditions])
        self.images, self.groups, self.keys = [images[rows]], [groups[rows]], [keys[rows]]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As in torchmetrics, but a rank that saw no sample takes part with empty tensors."""
        if isinstance(self.images, list) and not self.images:
            self.images = [torch.empty(0, 3, self.size, self.size, dtype=torch.uint8, device=self.device)]
            self.groups = [torch.empty(0, dtype=torch.int64, device=self.device)]
            self.keys = [torch.empty(0, dtype=torch.int64, device=self.device)]
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, float]:
        """``lpips_diversity``, the mean over conditions of the mean over pairs, and ``lpips_condition_count``.

        Without two samples of any condition there is only the count, 0: let the evaluation's conditions repeat.
        """
        images, groups, keys = (
            state if isinstance(state, Tensor) else dim_zero_cat(state) if state else torch.empty(0)
            for state in (self.images, self.groups, self.keys)
        )
        order = torch.argsort(keys)
        order = order[torch.argsort(groups[order], stable=True)]
        means = []
        self.lpips.to(self.device)
        for group in groups.unique()[: self.conditions]:
            rows = order[groups[order] == group][: self.seeds]
            if len(rows) < 2:
                continue
            first, second = torch.combinations(torch.arange(len(rows), device=rows.device)).unbind(1)
            distances = [
                self.lpips(images[rows[a]], images[rows[b]]).double()
                for a, b in zip(first.split(BLOCK), second.split(BLOCK), strict=True)
            ]
            means.append(torch.cat(distances).mean())
        numbers = {"lpips_condition_count": float(len(means))}
        return {"lpips_diversity": float(torch.stack(means).mean()), **numbers} if means else numbers

    def fingerprint(self) -> str:
        """Backbone, size and sha256 of the weights."""
        return f"{self.lpips.fingerprint()}/{self.size}/{self.conditions}x{self.seeds}"


class TeacherAlignment(PictureMetric):
    """How close a student's sample is to its teacher's from the same noise and condition.

    Gives ``teacher_psnr`` (mean over pairs, in dB, at most 100) and ``teacher_lpips``. Only methods that follow the
    teacher's trajectories aim at this; distribution matching may be perfect and far from its teacher.

    Args:
        backbone: Of LPIPS, ``null`` for PSNR alone, which needs no weights.
        weights: torchvision's file of the backbone; ``None`` to take it from PyTorch's cache or download it.
        count: How many of the first samples are compared.
    """

    numbers = {
        "teacher_psnr": Kind("alignment", "higher"),
        "teacher_lpips": Kind("alignment", "lower"),
        "teacher_pair_count": BOOKKEEPING,
    }
    in_parts = False
    psnr_total: Tensor
    lpips_total: Tensor
    count: Tensor

    def __init__(self, backbone: Backbone | None = "alex", weights: str | None = None, count: int = 64) -> None:
        checks.whole(self, count=count)
        super().__init__()
        self.wanted = count
        self.lpips = None if backbone is None else Lpips(backbone, weights)
        self.add_state("psnr_total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("lpips_total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def load(self) -> None:
        """Read the network, if LPIPS is wanted."""
        if self.lpips is not None:
            self.lpips.load()

    @property
    def wants_teacher(self) -> int:
        """As many as are compared."""
        return self.wanted

    def observe(self, batch: Pictures) -> None:
        """Take in pictures of which those of the teacher's seeds count."""
        seeds, known = batch.seeds or [], batch.teacher or {}
        rows = [row for row, seed in enumerate(seeds) if seed in known]
        pairs = [known[seed] for seed in seeds if seed in known]
        self.update(batch.images[rows], torch.stack(pairs) if pairs else None)

    def update(self, samples: Tensor, teacher_samples: Tensor | None = None) -> None:
        """Add pairs of uint8 images (N, C, H, W); without the teacher's nothing is counted."""
        if teacher_samples is None or not len(samples):
            return
        if samples.shape != teacher_samples.shape:
            raise UserError(
                f"The student's samples have shape {tuple(samples.shape)}, the teacher's "
                f"{tuple(teacher_samples.shape)}; alignment needs equal noise, so equal shapes."
            )
        first, second = samples.to(self.device), teacher_samples.to(self.device)
        error = (first.double() - second.double()).square().flatten(1).mean(dim=1)
        psnr = 10 * torch.log10(255**2 / error.clamp(min=255**2 * 1e-10))
        self.psnr_total = self.psnr_total + psnr.sum()
        self.count = self.count + len(first)
        if self.lpips is not None:
            self.lpips.to(self.device)
            pairs = zip(first.split(BLOCK), second.split(BLOCK), strict=True)
            self.lpips_total = self.lpips_total + sum(self.lpips(a, b).double().sum() for a, b in pairs)

    def compute(self) -> dict[str, float]:
        """``{"teacher_psnr", "teacher_lpips", "teacher_pair_count"}``, or nothing without pairs."""
        count = int(self.count)
        if count == 0:
            return {}
        numbers: Mapping[str, float] = {"teacher_psnr": float(self.psnr_total) / count}
        if self.lpips is not None:
            numbers = {**numbers, "teacher_lpips": float(self.lpips_total) / count}
        return {**numbers, "teacher_pair_count": float(count)}

    def fingerprint(self) -> str:
        """Backbone and sha256 of the weights."""
        return "psnr" if self.lpips is None else f"psnr+{self.lpips.fingerprint()}"
