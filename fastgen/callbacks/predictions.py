"""Files for ``fastgen predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from fastgen.callbacks.trainer_access import in_run
from fastgen.pictures.grids import save_samples


class WriteSamples(BasePredictionWriter):
    """Writes the samples of ``fastgen predict``: ``000042.png`` for seed 42, or all points in one file.

    Args:
        out: Folder; ``<log_dir>`` stands for that of the run.
    """

    def __init__(self, out: str = "<log_dir>/samples") -> None:
        super().__init__(write_interval="batch")
        self.out = out
        self._points: list[Tensor] = []
        self._seeds: list[int] = []

    def folder(self, trainer: Trainer) -> Path:
        """Where files go. Every rank must ask."""
        return in_run(trainer, self.out)

    def write_on_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        seeds = batch["seed"].tolist()
        if prediction.ndim in (2, 3):
            self._points.append(prediction.cpu())
            self._seeds += seeds
        else:
            save_samples(prediction, self.folder(trainer), names=seeds)

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        folder = self.folder(trainer)
        if self._points:  # each rank has its own points
            name = "points" if trainer.world_size == 1 else f"points-{trainer.global_rank}"
            save_samples(torch.cat(self._points), folder / f"{name}.safetensors", names=self._seeds)
            self._points, self._seeds = [], []
