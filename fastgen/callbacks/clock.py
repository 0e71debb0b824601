"""Work beside training: it changes nothing, and its time does not count as training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from fastgen.callbacks.trainer_access import callbacks_of


class SideWork(Callback):
    """A callback that interrupts training for work of its own.

    Attributes:
        side_seconds: How long that took so far, in this process.
    """

    side_seconds: float = 0.0

    @contextmanager
    def side_work(self) -> Iterator[None]:
        """Inside: no gradients, random number generators that training does not notice, and a stopped clock."""
        began = time.perf_counter()
        try:
            with isolate_rng(), torch.no_grad():
                yield
        finally:
            self.side_seconds += time.perf_counter() - began


class TrainingTime:
    """A clock that stands still during side work.

    Attributes:
        before: Seconds of earlier runs (set on resume) and of finished stretches.
    """

    def __init__(self) -> None:
        self.before = 0.0
        self._trainer: Trainer | None = None
        self._began = 0.0

    def start(self, trainer: Trainer) -> None:
        """Go on counting."""
        self._trainer = trainer
        self._began = self._now()

    def stop(self) -> None:
        """Stand still until the next :meth:`start`."""
        self.before = self.seconds
        self._trainer = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far. Ask before side work, not during it."""
        return self.before if self._trainer is None else self.before + self._now() - self._began

    def _now(self) -> float:
        assert self._trainer is not None
        aside = sum(other.side_seconds for other in callbacks_of(self._trainer) if isinstance(other, SideWork))
        return time.perf_counter() - aside


class TimesTraining(Callback):
    """A callback with a clock of training, which stands still while validation runs.

    Attributes:
        training_time: The clock; to be started when training starts and stopped when it ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self.training_time = TrainingTime()

    def on_validation_start(self, trainer: Trainer, method: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.training_time.stop()

    def on_validation_end(self, trainer: Trainer, method: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.training_time.start(trainer)
