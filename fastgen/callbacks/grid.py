"""Pictures of the same seeds while training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from fastgen import checks
from fastgen.callbacks.clock import SideWork
from fastgen.callbacks.interruption import stop_requested
from fastgen.callbacks.sampling import describe, reference, sample_batches
from fastgen.callbacks.trainer_access import distiller, log_folder
from fastgen.callbacks.updates import AfterStudentUpdates, is_due
from fastgen.pictures.grids import grid, save_picture, scatter

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


class SampleGrid(AfterStudentUpdates, SideWork):
    """Writes ``<log_dir>/grids/step_000500.png``: teacher above student, the same seeds and conditions in each column.

    Pictures are made before the first update, every ``every_n_steps`` student updates and at the end. Points are drawn
    as scatter plots over the reference.

    Args:
        every_n_steps: Student updates between pictures; 0 for only the first and the last.
        seeds: The seeds, or how many (0, 1, ...).
        columns: Images per row; ``square`` for about as many as rows.
        steps: Network calls of the student, one block each; ``trained`` for the number that it is trained for.
        role: Whose samples: ``average``, ``student`` or an EMA's name.
        teacher_steps: Solver steps for further blocks of the teacher, e.g. 1 shows the teacher used as a student.
        batch_size: Samples per network call.
    """

    def __init__(
        self,
        every_n_steps: int = 500,
        seeds: int | list[int] = 64,
        columns: int | Literal["square"] = "square",
        steps: list[int] | Literal["trained"] = "trained",
        role: str = "average",
        teacher_steps: Sequence[int] = (1,),
        batch_size: int = 64,
    ) -> None:
        checks.whole(self, 0, every_n_steps=every_n_steps)
        checks.whole(self, batch_size=batch_size, columns=None if columns == "square" else columns)
        own = None if steps == "trained" else steps
        checks.whole(self, 1, checks.MOST_STEPS, steps=own, teacher_steps=teacher_steps)
        checks.not_empty(self, steps=own, role=role)
        if isinstance(seeds, int):
            checks.whole(self, 1, 10_000, seeds=seeds)
        else:
            checks.seed(self, seeds=seeds)
            checks.not_empty(self, seeds=seeds)
        self.every_n_steps = every_n_steps
        self.seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        self.columns = None if isinstance(columns, str) else columns
        self.steps: list[int | None] = [None] if isinstance(steps, str) else list(steps)
        self.role = role
        self.teacher_steps = list(teacher_steps)
        self.batch_size = batch_size
        self._teacher: dict[str, Tensor] | None = None
        self._drawn: int | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        super().on_train_start(trainer, method)
        if trainer.global_step == 0:
            self.draw(trainer, method)

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Mapping[str, Any]) -> None:
        if is_due(trainer.global_step, self.every_n_steps):
            self.draw(trainer, method)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        if self._drawn != trainer.global_step:
            self.draw(trainer, method)

    def draw(self, trainer: Trainer, method: Distiller) -> None:
        """Make the picture of the current weights. Every rank takes part, because networks may be sharded."""
        if stop_requested(trainer):
            return
        with self.side_work():
            if self._teacher is None:
                self._teacher = self.teacher_blocks(trainer, method)
            blocks = dict(self._teacher)
            for steps in self.steps:
                caption = f"{describe(method, self.role, steps)}, update {trainer.global_step}"
                blocks[caption] = self.block(trainer, method, self.role, steps)
            folder = log_folder(trainer)
            if trainer.is_global_zero:
                picture = self.picture(trainer, blocks)
                save_picture(picture, folder / "grids" / f"step_{trainer.global_step:06d}.png")
                self.send(trainer, picture)
        self._drawn = trainer.global_step

    def teacher_blocks(self, trainer: Trainer, method: Distiller) -> dict[str, Tensor]:
        """The teacher's samples by caption; they never change."""
        if method.teacher is None:
            return {}
        blocks = {}
        for steps in (None, *self.teacher_steps):
            blocks[describe(method, "teacher", steps)] = self.block(trainer, method, "teacher", steps)
        return blocks

    def block(self, trainer: Trainer, method: Distiller, role: str, steps: int | None) -> Tensor:
        """The samples of one block, on the CPU."""
        numbers = range(len(self.seeds))
        batches = sample_batches(trainer, method, numbers, self.seeds, self.batch_size, role, steps)
        return torch.cat([samples.cpu() for samples, _ in batches])

    def picture(self, trainer: Trainer, blocks: dict[str, Tensor]) -> Any:
        """The blocks as one PIL image."""
        if next(iter(blocks.values())).ndim > 2:
            return grid(list(blocks.values()), self.columns, list(blocks))
        real = reference(trainer)
        return scatter(blocks, real["samples"][:2000] if real else None)

    def send(self, trainer: Trainer, picture: Any) -> None:
        """Show the picture in loggers that take one (TensorBoard)."""
        import numpy as np

        for logger in trainer.loggers:
            add_image = getattr(getattr(logger, "experiment", None), "add_image", None)
            if add_image is not None:
                add_image("samples", np.asarray(picture), trainer.global_step, dataformats="HWC")
