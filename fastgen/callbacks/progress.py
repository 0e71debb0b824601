"""Progress bars that count what the user asked for: student updates."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from fastgen.callbacks.bars import bar, refresh_seconds
from fastgen.callbacks.trainer_access import distiller, place

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


def bar_of(trainer: Trainer, **options: Any) -> tqdm:
    """A bar on rank 0 only; without ``leave`` it goes away when done and never shows if it is done soon."""
    quiet = {"leave": False, "delay": 5 * refresh_seconds()}
    return bar(disable=not trainer.is_global_zero, **(quiet | options))


class Progress(ProgressBar):
    """One bar of student updates with the losses of all roles, and bars for validation, test and prediction.

    Data modules are endless, so Lightning's own bar would count batches towards infinity. In a log file the bar is
    refreshed twice a minute.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._training: tqdm | None = None
        self._other: tqdm | None = None
        self._refreshed = 0.0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        method = distiller(module)
        super().setup(trainer, method, stage)
        place(self, trainer, first=True)  # so that the bar is closed before others report at the end

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print without breaking the bar."""
        tqdm.write(kwargs.get("sep", " ").join(str(arg) for arg in args), file=sys.stdout)

    # ------------------------------------------------------------------ training

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self._enabled:
            total = trainer.max_steps if trainer.max_steps > 0 else None
            self._training = bar_of(
                trainer, desc="training", total=total, initial=trainer.global_step, unit="update", leave=True, delay=0
            )

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        method = distiller(module)
        if self._training is None:
            return
        if (now := time.monotonic()) - self._refreshed >= refresh_seconds():
            self._refreshed = now  # reading a loss waits for the GPU, so not after every batch
            self._training.set_postfix_str(self.losses(trainer, method), refresh=False)
        self._training.update(trainer.global_step - self._training.n)

    def losses(self, trainer: Trainer, method: Distiller) -> str:
        """The latest losses, e.g. ``student/match 0.51, critic/denoising 0.32``."""
        shown = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.split("/")[0] in method.roles() and not name.endswith("grad_norm")
        }
        if method.bad_steps_total:
            shown["skipped"] = method.bad_steps_total
        return ", ".join(f"{name} {value:.3g}" for name, value in shown.items())

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        self._close_training(trainer, method)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        method = distiller(module)
        self._close()
        self._close_training(trainer, method)

    def _close_training(self, trainer: Trainer, method: Distiller) -> None:
        if self._training is not None:
            self._training.set_postfix_str(self.losses(trainer, method))
            self._training.close()
            self._training = None

    # ------------------------------------------------------------------ validation, test, prediction

    def _open(self, trainer: Trainer, description: str, batches: Any) -> None:
        if self._enabled:
            total = sum(batches) if isinstance(batches, list) else batches
            self._other = bar_of(
                trainer, desc=description, total=None if total == float("inf") else total, unit="batch"
            )

    def _advance(self) -> None:
        if self._other is not None:
            self._other.update()

    def _close(self) -> None:
        if self._other is not None:
            self._other.close()
            self._other = None

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._open(trainer, "validation", batches)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._advance()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close()

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._open(trainer, "test", trainer.num_test_batches)

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._advance()

    def on_test_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close()

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._open(trainer, "prediction", trainer.num_predict_batches)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._advance()

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close()
