"""Callbacks that act after updates of the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from fastgen.callbacks.trainer_access import distiller

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


class AfterStudentUpdates(Callback):
    """Calls :meth:`after_student_update` after every batch in which the student was updated.

    A batch may train only the critic, and an update with a non-finite gradient is skipped; ``trainer.global_step``
    counts the updates that happened.
    """

    _seen_updates = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._seen_updates = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        method = distiller(module)
        if trainer.global_step > self._seen_updates:
            self._seen_updates = trainer.global_step
            self.after_student_update(trainer, method, batch)

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Mapping[str, Any]) -> None:
        """Student update number ``trainer.global_step`` is done."""


def is_due(step: int, every: int) -> bool:
    """Whether ``step`` is a multiple of ``every``; 0 means never."""
    return every > 0 and step % every == 0
