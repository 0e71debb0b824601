"""Samples with a degraded copy each: what restoration starts from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component, Seed
from fastgen.data.base import DistillationData
from fastgen.data.sources import Batch, BatchSource
from fastgen.errors import UserError
from fastgen.randomness import Draws, derive_seed


class Degradation(Component, ABC):
    """What is lost; a pure function of a sample and the random numbers of its number."""

    @abstractmethod
    def __call__(self, x0: Tensor, draws: Draws) -> Tensor:
        """Degraded copies (B, ...) of samples ``x0`` (B, ...)."""


@dataclass(frozen=True)
class AddedNoise(Degradation):
    """Gaussian noise.

    Args:
        std: Standard deviation.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        checks.positive(self, std=self.std)

    def __call__(self, x0: Tensor, draws: Draws) -> Tensor:
        return x0 + self.std * draws.normal("degradation", x0.shape[1:], x0.dtype)


@dataclass(frozen=True)
class Pooled(Degradation):
    """Images (B, C, H, W) averaged over squares: what super-resolution starts from.

    Args:
        factor: Side of a square; it must divide both sides of an image.
    """

    factor: int = 4

    def __post_init__(self) -> None:
        checks.whole(self, 2, factor=self.factor)

    def __call__(self, x0: Tensor, draws: Draws) -> Tensor:
        if x0.ndim != 4 or any(side % self.factor for side in x0.shape[2:]):
            raise UserError(
                f"Pooled averages images over squares of {self.factor}, but a sample is {tuple(x0.shape[1:])}; "
                "choose a factor that divides its sides."
            )
        return F.interpolate(F.avg_pool2d(x0, self.factor), scale_factor=self.factor, mode="nearest")


@dataclass(frozen=True)
class MaskedCentre(Degradation):
    """Images (B, C, H, W) whose centre is noise: what inpainting starts from.

    Args:
        share: Sides of the hole as a share of the image's.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        checks.between(self, 0.0, 1.0, "()", share=self.share)

    def __call__(self, x0: Tensor, draws: Draws) -> Tensor:
        result = x0.clone()
        top, left = (round(side * (1 - self.share) / 2) for side in x0.shape[-2:])
        hole = (..., slice(top, x0.shape[-2] - top), slice(left, x0.shape[-1] - left))
        result[hole] = draws.normal("degradation", x0.shape[1:], x0.dtype)[hole]
        return result


class _DegradedSource(BatchSource):
    """Samples of another source, and their degraded copies as the condition ``source``."""

    def __init__(self, inner: BatchSource, degradation: Degradation, name: str) -> None:
        self.size = inner.size
        self.inner, self.degradation, self.name = inner, degradation, name

    def batch(self, indices: Sequence[int]) -> Batch:
        batch = self.inner.batch(indices)
        if "x0" not in batch:
            raise UserError("Degraded needs samples to degrade; let its data module give them (with_x0: true).")
        draws = Draws(derive_seed("degraded"), indices, self.name)
        return {**batch, "condition": {**batch["condition"], "source": self.degradation(batch["x0"], draws)}}


class Degraded(DistillationData):
    """Another data module's samples, each with a degraded copy: ``condition["source"]``, shaped as the sample.

    Evaluations restore held-out samples.

    Args:
        data: Where samples and their conditions come from, and what restored ones are compared with.
        degradation: What is lost.
        batch_size: Samples per rank and batch.
        seed: Seed of the order; ``seed_everything`` is that of the run.
        num_workers: Loader processes per rank.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self,
        data: DistillationData,
        degradation: Degradation = AddedNoise(),
        batch_size: int = 128,
        seed: Seed = "seed_everything",
        num_workers: int = 0,
        predict_count: int = 64,
    ) -> None:
        super().__init__(batch_size, seed, num_workers, predict_count)
        self.data = data
        self.degradation = degradation

    def make_sources(self) -> tuple[BatchSource, ...]:
        """The inner module's, degraded."""
        names = ("train", "held out", "test")
        return tuple(
            _DegradedSource(inner, self.degradation, name)
            for inner, name in zip(self.data.make_sources(), names, strict=False)
        )

    @property
    def sample_kind(self) -> Literal["image", "points"]:
        """As the inner module's."""
        return self.data.sample_kind

    @property
    def num_classes(self) -> int | None:
        """As the inner module's."""
        return self.data.num_classes

    @property
    def label_names(self) -> list[str] | None:
        """As the inner module's."""
        return self.data.label_names

    def reference(self) -> dict[str, Tensor] | None:
        """As the inner module's."""
        return self.data.reference()

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """Of held-out samples, from the first again after the last."""
        source = self.measured
        return source.batch([i % source.size if source.size else i for i in indices])["condition"]
