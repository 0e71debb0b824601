"""Endless batches of a law that is known exactly; needs no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Seed
from fastgen.data.base import DistillationData
from fastgen.data.sources import Batch, BatchSource
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.pictures.pixels import to_uint8
from fastgen.randomness import derive_seed, generator

BLOCK = 1024
"""Samples drawn with one generator; sample n is row n % BLOCK of block n // BLOCK."""


class _LawSource(BatchSource):
    """Sample n of a stream named ``seed``: a pure function of (seed, n), whatever the batches."""

    def __init__(self, law: Any, seed: int, size: int | None, with_x0: bool) -> None:
        self.size = size
        self.law = law
        self.seed = seed
        self.with_x0 = with_x0
        self._blocks: dict[int, dict[str, Tensor]] = {}

    def _draw(self, number: int) -> dict[str, Tensor]:
        g = generator(self.seed, "block", number)
        block = {}
        if self.law.num_classes:
            block["label"] = torch.randint(self.law.num_classes, (BLOCK,), generator=g)
        if self.with_x0:
            block["x0"] = self.law.sample(BLOCK, g, block.get("label"))
        return block

    def batch(self, indices: Sequence[int]) -> Batch:
        needed = sorted({n // BLOCK for n in indices})
        # Keep what this batch needs: the next one mostly continues in the same block.
        self._blocks = {b: self._blocks[b] if b in self._blocks else self._draw(b) for b in needed}
        first = {b: i * BLOCK for i, b in enumerate(needed)}
        rows = torch.tensor([first[n // BLOCK] + n % BLOCK for n in indices])
        drawn = {name: torch.cat([self._blocks[b][name] for b in needed])[rows] for name in self._blocks[needed[0]]}
        condition = {"label": drawn.pop("label")} if "label" in drawn else {}
        return {**drawn, "condition": condition}


class Mixture(DistillationData):
    """Conditions, or exact samples, of a law from ``fastgen.denoisers``.

    Labels are drawn uniformly, so a conditional law is sampled with equal shares of its classes.

    Args:
        distribution: The law, e.g. ``{class_path: RingMixture, init_args: {process: ...}}``.
        with_x0: Whether batches hold samples; without them training is data-free.
        held_out_count: Number of validation samples, and of test samples.
        reference_count: Number of samples that generated ones are compared with.
        batch_size: Samples per rank and batch.
        seed: Seed of the training samples; ``seed_everything`` is that of the run.
        num_workers: Loader processes per rank.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self,
        distribution: Callable[[], Denoiser],
        with_x0: bool = False,
        held_out_count: int = 512,
        reference_count: int = 4096,
        batch_size: int = 256,
        seed: Seed = "seed_everything",
        num_workers: int = 0,
        predict_count: int = 1024,
    ) -> None:
        checks.whole(self, held_out_count=held_out_count, reference_count=reference_count)
        super().__init__(batch_size, seed, num_workers, predict_count)
        self.distribution = distribution
        self.with_x0 = with_x0
        self.held_out_count = held_out_count
        self.reference_count = reference_count

    @cached_property
    def law(self) -> Any:
        """The law; it stays on the CPU."""
        law = self.distribution()
        if not hasattr(law, "log_prob"):
            raise UserError(
                f"data.distribution is {type(law).__name__}, whose samples are not known exactly; "
                "give a law such as RingMixture."
            )
        return law

    def make_sources(self) -> tuple[BatchSource, ...]:
        """The endless training stream, and ``held_out_count`` samples each of two others, equal for all seeds."""

        def stream(name: str, seed: int, size: int | None) -> _LawSource:
            return _LawSource(self.law, derive_seed(seed, name), size, self.with_x0)

        held_out = (stream(name, 0, self.held_out_count) for name in ("held out", "test"))
        return stream("train", self.seed, None), *held_out

    @property
    def sample_kind(self) -> Literal["image", "points"]:
        """``image`` if the law's samples have the shape (C, H, W)."""
        return "image" if len(self.law.sample_shape) == 3 else "points"

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the law."""
        return self.law.num_classes or None

    def reference(self) -> dict[str, Tensor]:
        """Fresh samples with balanced labels, equal for all seeds; images are rounded and clamped to uint8."""
        condition = self.evaluation_conditions(range(self.reference_count))
        g = generator(0, "reference")
        samples = self.law.sample(self.reference_count, g, condition.get("label"))
        return {"samples": to_uint8(samples) if self.sample_kind == "image" else samples, **condition}
