"""What a family's encoders make of samples, held in memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition, concatenate, select
from fastgen.configuration.components import Seed
from fastgen.data.base import DistillationData
from fastgen.data.sources import Batch, BatchSource
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.errors import UserError

CHUNK = 64
"""Samples that are encoded at once."""


class _Table:
    """Rows for keys; equal keys share a row."""

    def __init__(self) -> None:
        self.number: dict[Hashable, int] = {}

    def rows(self, keys: Sequence[Hashable]) -> tuple[list[int], list[int]]:
        """The rows of ``keys``, and the places of those that are new."""
        new = []
        for place, key in enumerate(keys):
            if key not in self.number:
                self.number[key] = len(self.number)
                new.append(place)
        return [self.number[key] for key in keys], new


class _EncodedSource(BatchSource):
    """The first ``size`` samples of another source, encoded when the first of them is asked for."""

    def __init__(self, inner: BatchSource, size: int, codec: Callable[[], Codec]) -> None:
        self.inner = inner
        self.size = size
        self.codec = codec

    @cached_property
    def encoded(self) -> tuple[Tensor | None, list[int], Condition, list[int]]:
        """Latents (N, ...) and the row of every sample in them; conditions and the rows in those."""
        codec, pictures, prompts = self.codec(), _Table(), _Table()
        latents, conditions, places, told = [], [], [], []
        assert self.size is not None
        for start in range(0, self.size, CHUNK):
            batch = self.inner.batch(range(start, min(start + CHUNK, self.size)))
            texts = batch["condition"].get("prompt")
            if texts is None:
                raise UserError("Encoded holds what is made of prompts, and its data module gives none; name another.")
            rows, new = prompts.rows(texts)
            told += rows
            if new:
                conditions.append(codec.encode_condition({"prompt": [texts[i] for i in new]}))
            if "x0" in batch:
                rows, new = pictures.rows([picture.numpy().tobytes() for picture in batch["x0"]])
                places += rows
                if new:
                    latents.append(codec.encode(batch["x0"][new]))
        return torch.cat(latents) if latents else None, places, self._compact(conditions), told

    @staticmethod
    def _compact(conditions: list[Condition]) -> Condition:
        """All conditions as one; what is the same for every sample is held once."""
        same = {name for name, value in conditions[0].items() if value.stride(0) == 0}
        varying = concatenate([{k: v for k, v in c.items() if k not in same} for c in conditions])
        count = sum(len(next(iter(c.values()))) for c in conditions)
        shared = {name: conditions[0][name][:1].expand(count, *conditions[0][name].shape[1:]) for name in same}
        return {**varying, **shared}

    @torch.no_grad()
    def batch(self, indices: Sequence[int]) -> Batch:
        latents, places, conditions, told = self.encoded
        condition = select(conditions, torch.tensor([told[i] for i in indices]))
        x0 = {} if latents is None else {"x0": latents[[places[i] for i in indices]]}
        return {**x0, "condition": condition, "encoded": True}


class Encoded(DistillationData):
    """Pictures and captions of another data module as latents and embeddings in memory.

    Encoders are run once, when the training begins, and not in every update; equal pictures and equal captions are
    encoded once and held once. What samples are compared with, and what is asked for in evaluations, is the other
    module's.

    Args:
        data: Where pictures and prompts come from. Without pictures the prompts alone are encoded.
        encoder: The pipeline whose encoders are used, as for a teacher.
        count: Training samples that are held: the first so many of an endless module.
        batch_size: Samples per rank and batch.
        seed: Seed of the sample order; ``seed_everything`` is that of the run.
        num_workers: Has to be 0: the samples lie in this process.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self,
        data: DistillationData,
        encoder: Callable[[], Denoiser],
        count: int = 65536,
        batch_size: int = 32,
        seed: Seed = "seed_everything",
        num_workers: Literal[0] = 0,
        predict_count: int = 64,
    ) -> None:
        checks.whole(self, count=count)
        super().__init__(batch_size, seed, num_workers, predict_count)
        self.data = data
        self.encoder = encoder
        self.count = count

    @cached_property
    def codec(self) -> Codec:
        """The encoders, frozen, on this process's device."""
        codec = self.encoder().make_codec().requires_grad_(False).eval()
        return codec if self.trainer is None else codec.to(self.trainer.strategy.root_device)

    def make_sources(self) -> tuple[BatchSource, ...]:
        """Those of the other module, encoded."""
        train, *held_out = self.data.sources
        sizes = [self.count if train.size is None else min(self.count, train.size)]
        sizes += [self.batch_size if source.size is None else source.size for source in held_out]
        pairs = zip((train, *held_out), sizes, strict=True)
        return tuple(_EncodedSource(source, size, lambda: self.codec) for source, size in pairs)

    def setup(self, stage: str | None = None) -> None:
        """Find mistakes in files; the other module knows which split is measured."""
        self.data.trainer = self.trainer
        self.data.setup(stage)
        super().setup(stage)

    @property
    def sample_kind(self) -> Literal["image", "points"]:
        """That of the other module."""
        return self.data.sample_kind

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """Those of the other module, not encoded."""
        return self.data.evaluation_conditions(indices)

    def evaluation_groups(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        """Those of the other module."""
        return self.data.evaluation_groups(indices)

    def evaluation_samples(self, indices: Sequence[int]) -> Tensor | None:
        """Those of the other module."""
        return self.data.evaluation_samples(indices)

    def reference(self) -> dict[str, Tensor] | None:
        """That of the other module."""
        return self.data.reference()
