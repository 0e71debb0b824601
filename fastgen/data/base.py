"""What every data module promises: batches in an order that makes a resumed run exact."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import torch
import torch.distributed
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from fastgen import checks
from fastgen.checkpoints.restoring import count_of, restoring
from fastgen.configuration.components import Seed, seed_of
from fastgen.data.loader import Fetched, Loader, as_fetched
from fastgen.data.order import InfiniteSampler, ShardSampler
from fastgen.data.sources import Batch, BatchSource


class PredictSource(BatchSource):
    """The seeds and conditions of the samples to predict."""

    def __init__(self, data: DistillationData) -> None:
        self.size = data.predict_count
        self.data = data

    def batch(self, indices: Sequence[int]) -> Batch:
        seed = torch.as_tensor(indices, dtype=torch.int64)
        return {"seed": seed, "condition": self.data.evaluation_conditions(indices)}


class DistillationData(LightningDataModule, ABC):
    """Batches for a method: ``{"index": (B,), "x0"?: (B, ...), "condition": {...}}``.

    A subclass gives :meth:`make_sources` and, where they differ from the defaults, ``num_classes``, ``label_names``,
    :meth:`reference` and :meth:`evaluation_conditions`. Nothing is read before it is asked for.

    Args:
        batch_size: Samples per rank and batch.
        seed: Seed of the training samples' order, and of the samples where they are drawn; what is measured does not
            depend on it. ``seed_everything`` is that of the run.
        num_workers: Loader processes per rank; the batches do not depend on it.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self, batch_size: int = 128, seed: Seed = "seed_everything", num_workers: int = 0, predict_count: int = 64
    ) -> None:
        checks.whole(self, batch_size=batch_size, predict_count=predict_count)
        checks.seed(self, seed=seed)
        checks.whole(self, 0, checks.MOST_WORKERS, num_workers=num_workers)
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed_of(seed)
        self.num_workers = num_workers
        self.predict_count = predict_count
        self._start = 0
        self._start_iteration: int | None = 0  # None: a checkpoint was loaded, the method's counter is still to be read

    # What a subclass gives

    @abstractmethod
    def make_sources(self) -> tuple[BatchSource, ...]:
        """The samples of training, validation and (if they are others than those of validation) test; called once."""

    @property
    def sample_kind(self) -> Literal["image", "points"]:
        """Whether a sample is an image (C, H, W) or a point (D,)."""
        return "image"

    @property
    def num_classes(self) -> int | None:
        """Number of labels, ``None`` if there are no labels."""
        return None

    @property
    def label_names(self) -> list[str] | None:
        """The names of the labels, ``None`` if there are no labels."""
        return None if self.num_classes is None else [str(label) for label in range(self.num_classes)]

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """The conditions of evaluation samples ``indices``: a pure function of each index, labels balanced."""
        if self.num_classes is None:
            return {}
        return {"label": torch.as_tensor(indices, dtype=torch.int64) % self.num_classes}

    def evaluation_groups(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        """What metrics are told about evaluation samples ``indices`` and samplers are not.

        ``{"style": [...]}`` names groups; ``{"said": [{"background": "red"}, ...]}`` is what captions say by attribute.
        """
        return {}

    def evaluation_samples(self, indices: Sequence[int]) -> Tensor | None:
        """Real samples of the conditions of evaluation samples ``indices``, drawn anew, as in :meth:`reference`.

        They are measured as a perfect sampler's would be. ``None`` if the module has none but those of the reference.
        """
        return None

    def reference(self) -> dict[str, Tensor] | None:
        """What samples are compared with, equal on all ranks.

        Returns:
            ``{"samples": uint8 (N, C, H, W) images or float32 (N, D) points, "label": (N,) int64 if there are labels}``
            or ``None`` if the module knows no real samples.
        """
        return None

    # Loaders

    @cached_property
    def sources(self) -> tuple[BatchSource, BatchSource, BatchSource]:
        """The samples of training, validation and test."""
        train, *measured = self.make_sources()
        return train, measured[0], measured[-1]

    @property
    def measured(self) -> BatchSource:
        """What is measured: the samples of the test split while ``fastgen test`` runs, else those of validation."""
        return self.sources[2 if self.trainer is not None and self.trainer.testing else 1]

    def setup(self, stage: str | None = None) -> None:
        """Find mistakes in files before the first batch is asked for."""
        _ = self.sources

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless; an iterator begins with the first sample that the method has not used, here or before a resume."""
        self._start, self._start_iteration = self.samples_seen, self._iteration
        rank, world_size = self._rank_and_world_size()
        source = self.sources[0]

        def used() -> int:
            return self.samples_seen

        method = None if self.trainer is None else self.trainer.lightning_module
        repeats = int(getattr(method, "samples_per_condition", 1))
        sampler = InfiniteSampler(source.size, self.batch_size, self.seed, used, rank, world_size, repeats)
        return self._loader(source, sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation samples, each once over all ranks (a fixed batch if the module is data-free)."""
        return self._finite_loader(self.sources[1])

    def test_dataloader(self) -> DataLoader[Any]:
        """As :meth:`val_dataloader`, of the test split."""
        return self._finite_loader(self.sources[2])

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches ``{"index", "seed": (B,) int64, "condition": {...}}`` for ``predict_count`` samples; seed i is i."""
        return self._finite_loader(PredictSource(self), num_workers=0)

    def _finite_loader(self, source: BatchSource, num_workers: int | None = None) -> DataLoader[Any]:
        rank, world_size = self._rank_and_world_size()
        # A source without an end is drawn: one batch per rank of its first samples is held fixed.
        size = self.batch_size * world_size if source.size is None else source.size
        return self._loader(source, ShardSampler(size, rank, world_size), num_workers)

    def _loader(
        self, source: BatchSource, sampler: DistributedSampler[tuple[int, int]], num_workers: int | None = None
    ) -> DataLoader[Any]:
        return Loader(
            Fetched(source),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers if num_workers is None else num_workers,
            collate_fn=as_fetched,
            pin_memory=torch.cuda.is_available(),
        )

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    # Resume

    @property
    def _iteration(self) -> int:
        """Batches that the method has finished; loaders read ahead, so the module cannot count them itself."""
        method = None if self.trainer is None else self.trainer.lightning_module
        return 0 if method is None else int(cast(Tensor, method.iteration))

    @property
    def samples_seen(self) -> int:
        """Training samples used so far, over all ranks."""
        if self._start_iteration is None:
            return self._start
        _, world_size = self._rank_and_world_size()
        return self._start + (self._iteration - self._start_iteration) * self.batch_size * world_size

    def state_dict(self) -> dict[str, Any]:
        """``{"samples_seen": int}``."""
        return {"samples_seen": self.samples_seen}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Start the next training loader at ``samples_seen``."""
        with restoring("the data"):
            self._start, self._start_iteration = count_of(state_dict, "samples_seen"), None
