"""Pairs of noise and what a solver made of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Seed
from fastgen.data.base import DistillationData
from fastgen.data.sources import Batch, BatchSource
from fastgen.errors import UserError
from fastgen.storage.files import resolve
from fastgen.storage.pair_folder import PairFolder


class _PairSource(BatchSource):
    """Pairs ``first`` to ``first + size``."""

    def __init__(self, folder: PairFolder, first: int, size: int) -> None:
        self.folder, self.first, self.size = folder, first, size

    def batch(self, indices: Sequence[int]) -> Batch:
        noise, x0, condition = self.folder.pairs([self.first + i for i in indices])
        return {"x0": x0, "noise": noise, "condition": condition, "encoded": True}


class Pairs(DistillationData):
    """Batches ``{"index", "x0", "noise", "condition", "encoded": True}`` of a folder that ``fastgen pairs`` wrote.

    Samples and conditions are as the denoiser takes them (latents, embeddings), so no encoder runs in training. Any
    method can train on them; ``KD`` and ``Reflow`` also use the noise.

    Args:
        path: The folder.
        like: The data module whose conditions and real samples evaluations use, e.g. ``Digits``. Without it labels
            cycle, and there is nothing to compare samples with.
        held_out_count: The last so many pairs are held out, one half for validation and one for test.
        batch_size: Pairs per rank and batch.
        seed: Seed of the order; ``seed_everything`` is that of the run.
        num_workers: Loader processes per rank.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self,
        path: str,
        like: DistillationData | None = None,
        held_out_count: int = 256,
        batch_size: int = 128,
        seed: Seed = "seed_everything",
        num_workers: int = 0,
        predict_count: int = 64,
    ) -> None:
        checks.whole(self, held_out_count=held_out_count)
        super().__init__(batch_size, seed, num_workers, predict_count)
        self.path = path
        self.like = like
        self.held_out_count = held_out_count

    @cached_property
    def folder(self) -> PairFolder:
        """The folder, checked for completeness."""
        return PairFolder(resolve(self.path))

    def make_sources(self) -> tuple[BatchSource, ...]:
        """All pairs but the last ``held_out_count``, and the halves of those."""
        train = self.folder.count - self.held_out_count
        if train < 1 or self.held_out_count < 2:
            raise UserError(
                f"'{self.path}' holds {self.folder.count} pairs, of which data.held_out_count = {self.held_out_count} "
                "are for validation and test; hold out at least 2 and fewer than there are."
            )
        middle = train + (self.held_out_count + 1) // 2
        bounds = ((0, train), (train, middle), (middle, self.folder.count))
        return tuple(_PairSource(self.folder, first, end - first) for first, end in bounds)

    @property
    def sample_kind(self) -> Literal["image", "points"]:
        """As ``like``, or by the shape of a sample."""
        if self.like is not None:
            return self.like.sample_kind
        return "points" if len(self.folder.manifest["sample_shape"]) == 1 else "image"

    @property
    def num_classes(self) -> int | None:
        """As ``like``, or what the network that made the pairs knows."""
        if self.like is not None:
            return self.like.num_classes
        return self.folder.manifest["num_classes"] or None

    @property
    def label_names(self) -> list[str] | None:
        """As ``like``, or numbers."""
        return super().label_names if self.like is None else self.like.label_names

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """Those of ``like``, or labels in turn."""
        if self.like is not None:
            return self.like.evaluation_conditions(indices)
        if set(self.folder.manifest["condition"]) - {"label"}:
            raise UserError("These pairs were made from prompts; give data.like, e.g. Prompts with those to evaluate.")
        return super().evaluation_conditions(indices)

    def evaluation_groups(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        """Those of ``like``."""
        return {} if self.like is None else self.like.evaluation_groups(indices)

    def evaluation_samples(self, indices: Sequence[int]) -> Tensor | None:
        """Those of ``like``."""
        return None if self.like is None else self.like.evaluation_samples(indices)

    def reference(self) -> dict[str, Tensor] | None:
        """The real samples of ``like``."""
        return None if self.like is None else self.like.reference()
