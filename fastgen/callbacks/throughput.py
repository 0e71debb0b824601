"""How fast training runs and how much memory it takes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer

from fastgen import checks
from fastgen.callbacks.clock import TimesTraining, TrainingTime
from fastgen.callbacks.trainer_access import distiller, log_folder, log_scalars
from fastgen.callbacks.updates import AfterStudentUpdates, is_due
from fastgen.distiller.micro_batch import size_of
from fastgen.storage.files import write_json

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


def peak_memory_gib(device: torch.device) -> float:
    """Peak of allocated GPU memory, or of this process's resident memory on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Throughput(AfterStudentUpdates, TimesTraining):
    """Logs ``throughput/...``: samples per second, student updates per second, seconds per update, peak memory.

    Validation, evaluation and pictures do not count. Every batch counts as samples, also those that train only the
    critic. The summary of this process's run, without its first window (start-up), goes to
    ``<log_dir>/throughput.json``.

    Args:
        every_n_steps: Student updates per window.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        checks.whole(self, every_n_steps=every_n_steps)
        super().__init__()
        self.every_n_steps = every_n_steps
        self._samples = 0
        self._start = self._window = (0, 0, 0.0)
        self._first: tuple[int, int, float] | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        super().on_train_start(trainer, method)
        self.training_time = TrainingTime()
        self.training_time.start(trainer)
        self._samples, self._first = 0, None
        self._start = self._window = self._mark(trainer)
        if method.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(method.device)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        method = distiller(module)
        self._samples += size_of(batch) * trainer.world_size
        super().on_train_batch_end(trainer, method, outputs, batch, batch_idx)

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Mapping[str, Any]) -> None:
        if is_due(trainer.global_step, self.every_n_steps):
            mark = self._mark(trainer)
            values = self.speed(self._window, mark) | {"peak_memory_gib": peak_memory_gib(method.device)}
            log_scalars(trainer, {f"throughput/{name}": v for name, v in values.items()}, trainer.global_step)
            self._window = mark
            self._first = self._first or mark

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        end = self._mark(trainer)
        self.training_time.stop()
        start = self._first if self._first is not None and self._first[0] < end[0] else self._start
        device = torch.cuda.get_device_name(method.device) if method.device.type == "cuda" else method.device.type
        summary = {
            "student_updates": end[0],
            "samples": end[1],
            "training_seconds": end[2],
            **self.speed(start, end),
            "peak_memory_gib": peak_memory_gib(method.device),
            "device": device,
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
        }
        folder = log_folder(trainer)
        if trainer.is_global_zero and end[0] > self._start[0]:  # a run resumed at its end has nothing to tell
            write_json(folder / "throughput.json", summary)

    def _mark(self, trainer: Trainer) -> tuple[int, int, float]:
        return trainer.global_step, self._samples, self.training_time.seconds

    def speed(self, start: tuple[int, int, float], end: tuple[int, int, float]) -> dict[str, float]:
        """Rates between two marks (student updates, samples, seconds)."""
        updates, samples, seconds = (b - a for a, b in zip(start, end, strict=True))
        seconds = max(seconds, 1e-9)
        return {
            "samples_per_second": samples / seconds,
            "student_updates_per_second": updates / seconds,
            "seconds_per_update": seconds / max(updates, 1),
        }
