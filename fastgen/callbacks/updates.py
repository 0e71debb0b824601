"""Callbacks that act after updates of the student, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, Trainer

if TYPE_CHECKING:
    from fastgen.methods.base import Distiller


class AfterStudentUpdates(Callback):
    """Calls :meth:`after_student_update` after every batch in which the student was updated.

    A batch may train only the critic, and an update with a non-finite gradient is skipped; ``trainer.global_step``
    counts the updates that happened.
    """

    _seen_updates = 0

    def on_train_start(self, trainer: Trainer, method: Distiller) -> None:
        self._seen_updates = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, method: Distiller, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self._seen_updates:
            self._seen_updates = trainer.global_step
            self.after_student_update(trainer, method, batch)

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Mapping[str, Any]) -> None:
        """Student update number ``trainer.global_step`` is done."""


def is_due(step: int, every: int) -> bool:
    """Whether ``step`` is a multiple of ``every``; 0 means never."""
    return every > 0 and step % every == 0


def log_folder(trainer: Trainer) -> Path:
    """The folder of the run: the logger's, or ``trainer.default_root_dir``. Every rank must ask."""
    return Path(trainer.log_dir or ".")


def log_scalars(trainer: Trainer, values: Mapping[str, float], step: int) -> None:
    """Send numbers to the loggers at x = ``step`` and make them visible to callbacks that monitor."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step)
        logger.save()
    trainer.callback_metrics.update({name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})
