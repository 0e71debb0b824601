"""Checkpoints counted in student updates, written whole or not at all."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from fastgen import __version__, checks
from fastgen.callbacks.interruption import StopSignals
from fastgen.callbacks.run_folder import CHECKPOINTS, first_of, forget_after, refuse_used
from fastgen.callbacks.trainer_access import distiller, in_run, log_folder, place
from fastgen.callbacks.updates import AfterStudentUpdates, is_due
from fastgen.checkpoints.reading import CheckpointFiles
from fastgen.checkpoints.restoring import restoring
from fastgen.distiller.run_facts import RunFacts
from fastgen.sharding import gathered
from fastgen.storage.files import save_tensors
from fastgen.storage.writing import give_name, remove, remove_leftovers, writing

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller

LAST, BEST, WEIGHTS = "last.ckpt", "best.ckpt", "student.safetensors"


def step_name(step: int) -> str:
    """``step=000500.ckpt``."""
    return f"step={step:06d}.ckpt"


class _LoopThatEnds(_FitLoop):
    """A run that is resumed at its very end still does what is left to do: evaluate, write its weights.

    Lightning's loop would leave out ``on_train_start`` and ``on_train_end``.
    """

    @property
    def skip(self) -> bool:
        return bool(self.trainer.limit_train_batches == 0)


class Checkpoint(AfterStudentUpdates):
    """Saves what was trained: every n student updates, every so many minutes, at the end, and when told to stop.

    Files in ``dirpath``: ``step=000500.ckpt``, ``last.ckpt`` (resume with ``--ckpt_path``), ``best.ckpt`` and, at the
    end, ``student.safetensors`` (weights of the average). SIGTERM and Ctrl-C let the running batch finish, save
    ``last.ckpt`` and end the run; a second Ctrl-C breaks at once. Lightning's own ModelCheckpoint is not needed
    (``enable_checkpointing: false``): with several optimizers it misses steps and never saves by time.

    Args:
        dirpath: Folder; ``<log_dir>`` stands for that of the run.
        every_n_steps: Student updates between checkpoints; 0 for none.
        every_minutes: Minutes between checkpoints, beside ``every_n_steps``; ``None`` for never.
        keep: How many step files of this run stay; ``null`` keeps all.
        save_last: Keep ``last.ckpt`` up to date.
        monitor: Name of a logged number, e.g. ``eval/frechet``, by which ``best.ckpt`` is chosen.
        mode: Whether the smallest (``min``) or the largest (``max``) number is best.
    """

    def __init__(
        self,
        dirpath: str = "<log_dir>/checkpoints",
        every_n_steps: int = 500,
        every_minutes: float | None = None,
        keep: int | None = 3,
        save_last: bool = True,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        checks.whole(self, 0, every_n_steps=every_n_steps)
        checks.whole(self, keep=keep)
        checks.positive(self, every_minutes=every_minutes)
        self.dirpath = dirpath
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.save_last = save_last
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None
        self.stop_signals = StopSignals()
        self._kept: list[str] = []
        self._judged: Any = None
        self._saved_iteration: int | None = None
        self._saved_time = 0.0

    # ------------------------------------------------------------------ when

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # What the other callbacks did after a batch belongs into its checkpoint.
        place(self, trainer, first=False)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()
        if stage == TrainerFn.FITTING:
            trainer.fit_loop.__class__ = _LoopThatEnds  # the loop knows its data already, so it is not built anew

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.strategy.restore_checkpoint_after_setup:  # else it is not known yet where the run starts
            self.refuse_used(trainer)

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        """What of it does nothing in a run."""
        kind, makers = (self.monitor or "").split("/")[0], {"eval": "Evaluate", "val": "trainer.val_check_interval"}
        if kind in makers and kind not in run.measured:
            yield f"Checkpoint monitors '{self.monitor}', which nothing here logs: no best.ckpt; add {makers[kind]}."

    def refuse_used(self, trainer: Trainer) -> None:
        """Keep out of a folder with checkpoints of another run."""
        folder = self.folder(trainer)
        used = trainer.is_global_zero and first_of(folder, CHECKPOINTS) is not None
        if trainer.strategy.broadcast(used):
            refuse_used(folder, CHECKPOINTS, trainer.ckpt_path)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        super().on_train_start(trainer, method)
        if trainer.strategy.restore_checkpoint_after_setup:
            self.refuse_used(trainer)
        run, own = log_folder(trainer), self.folder(trainer)
        if trainer.is_global_zero:
            for home in {own, *([Path(trainer.ckpt_path).parent] if trainer.ckpt_path else [])}:
                remove_leftovers(home)
            for name in ("metrics.jsonl", "health.jsonl"):
                forget_after(run / name, trainer.global_step)
        self._saved_time = time.monotonic()
        self.stop_signals.install()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        method = distiller(module)
        updated = trainer.global_step > self._seen_updates
        super().on_train_batch_end(trainer, method, outputs, batch, batch_idx)
        names: list[str] = []
        if updated and (is_due(trainer.global_step, self.every_n_steps) or self.time_is_up(trainer)):
            names.append(step_name(trainer.global_step))
        number = self.stop_signals.agreed(trainer)
        ends = trainer.should_stop or 0 < trainer.max_steps <= trainer.global_step
        if number is not None or (self.save_last and (names or ends)):
            names.append(LAST)
        if self.is_best(trainer):
            names.append(BEST)
        self.save(trainer, method, names)
        if number is not None:
            last = self.folder(trainer) / LAST
            if trainer.is_global_zero:
                done = f"stopped after student update {trainer.global_step}"
                print(f"fastgen: {done}; continue with --ckpt_path {last}", file=sys.stderr)
            raise SystemExit(128 + number)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self.is_best(trainer):
            self.save(trainer, method, [BEST])

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        names = [LAST] if self.save_last and self._saved_iteration != method.iteration else []
        if self.is_best(trainer):
            names.append(BEST)
        self.save(trainer, method, names)
        self.save_weights(trainer, method)
        if self.monitor and self.best is None:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            rank_zero_warn(f"Checkpoint monitors '{self.monitor}', which was never logged; logged were: {logged}.")
        self.stop_signals.restore()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        method = distiller(module)
        # Lightning raises this one between batches. Any other exception may have come in the middle of an update.
        if isinstance(exception, SIGTERMException) and self._saved_iteration != method.iteration:
            self.save(trainer, method, [LAST])
        self.stop_signals.restore()

    def time_is_up(self, trainer: Trainer) -> bool:
        """Whether ``every_minutes`` have passed; rank 0 decides."""
        if self.every_minutes is None:
            return False
        passed = time.monotonic() - self._saved_time >= 60.0 * self.every_minutes
        return bool(trainer.strategy.broadcast(passed))

    def is_best(self, trainer: Trainer) -> bool:
        """Whether a new value of the monitored number is the best so far; rank 0 decides."""
        value = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        if value is None or value is self._judged:
            return False
        self._judged = value
        number = float(value)
        better = math.isfinite(number) and (
            self.best is None or (number < self.best if self.mode == "min" else number > self.best)
        )
        better = bool(trainer.strategy.broadcast(better))
        if better:
            self.best = number
        return better

    # ------------------------------------------------------------------ how

    def folder(self, trainer: Trainer) -> Path:
        """Where checkpoints go. Every rank must ask."""
        return in_run(trainer, self.dirpath)

    def save(self, trainer: Trainer, method: Distiller, names: Sequence[str]) -> None:
        """Write the current state once and give it all ``names``; every rank must call it."""
        if not names:
            return
        folder = self.folder(trainer)
        surplus = self.count_in(names)
        if trainer.is_global_zero:
            with writing(folder / names[0]):
                folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
        trainer.save_checkpoint(folder / names[0], weights_only=False)
        if trainer.is_global_zero:
            for name in names[1:]:
                give_name(folder / names[0], folder / name)
            for name in surplus:
                remove(folder / name)
        trainer.strategy.barrier("fastgen.Checkpoint.after")
        self._saved_iteration = method.iteration
        self._saved_time = time.monotonic()

    def count_in(self, names: Sequence[str]) -> list[str]:
        """Note new step files; returns those of this run that are now too many."""
        self._kept += [name for name in names if name.startswith("step=") and name not in self._kept]
        surplus = self._kept[: -self.keep] if self.keep is not None else []
        self._kept = self._kept[len(surplus) :]
        return surplus

    def save_weights(self, trainer: Trainer, method: Distiller) -> None:
        """Write the weights of the average (or the student), to be read by ``weights:`` of a network."""
        folder = self.folder(trainer)
        state = method.network("average").state_dict()
        tensors = gathered({k: v for k, v in state.items() if isinstance(v, torch.Tensor)}, trainer.is_global_zero)
        if trainer.is_global_zero:
            metadata = {
                "fastgen": __version__,
                "method": type(method).__name__,
                "student_updates": str(trainer.global_step),
            }
            save_tensors(folder / WEIGHTS, tensors, metadata)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "kept": list(self._kept)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        with restoring("Checkpoint"):
            best, kept = state_dict["best"], list(state_dict["kept"])
            if strange := [name for name in kept if not re.fullmatch(r"step=\d+\.ckpt", name)]:
                raise ValueError(f"'{strange[0]}' is no file of its")  # what is kept is deleted some day
            self.best, self._kept = None if best is None else float(best), kept
