"""What a run's trainer needs beside what its config says: a bar, a checkpoint, a folder of its own."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.callbacks import ProgressBar

import fastgen.callbacks
from fastgen.callbacks import WriteSamples
from fastgen.callbacks.beginning import Beginning
from fastgen.callbacks.loggers import open_loggers, refuse_nonsense
from fastgen.callbacks.run_folder import OF_A_RUN, next_version, refuse_used, set_aside
from fastgen.callbacks.trainer_access import callbacks_of, log_folder
from fastgen.errors import UserError

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,
    "enable_checkpointing": False,  # fastgen.callbacks.Checkpoint counts student updates
    "use_distributed_sampler": False,  # data modules are indexed by global sample number
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}

KEEPERS = (fastgen.callbacks.Checkpoint, LightningCheckpoint)
"""Callbacks that keep what is trained."""


def with_progress(callbacks: Callback | list[Callback] | None, shown: bool) -> list[Callback]:
    """The callbacks with one progress bar, or with none.

    Raises:
        UserError: If one of them is nothing but a callback, which does nothing.
    """
    given = callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]
    for number, callback in enumerate(given):
        if type(callback) is Callback:  # what arguments without a class become
            raise UserError(f"trainer.callbacks[{number}] is of no class; name it in class_path.")
    bars = [callback for callback in given if isinstance(callback, ProgressBar)]
    if not shown:
        return [callback for callback in given if callback not in bars]
    return given if bars else [*given, fastgen.callbacks.Progress()]


def complete(options: Namespace, command: str) -> None:
    """Add a bar, and to a training a checkpoint, where the trainer's options have none."""
    options.callbacks = with_progress(options.callbacks, options.enable_progress_bar is not False)
    keeps = options.enable_checkpointing or any(isinstance(c, KEEPERS) for c in options.callbacks)
    if command == "fit" and not keeps:
        options.callbacks.append(fastgen.callbacks.Checkpoint())  # a run that keeps nothing is in vain


def prepare(trainer: Trainer, command: str) -> None:
    """Give a trainer its folder and what belongs to the command, also if the config does not say so."""
    if not trainer.loggers:  # what runs leave belongs into a folder of their own, as loggers make one
        trainer._default_root_dir = str(next_version(trainer.default_root_dir))  # type: ignore[attr-defined]
    callbacks = callbacks_of(trainer)
    if command == "fit":
        callbacks.append(Beginning())
    if command == "predict" and not any(isinstance(c, WriteSamples) for c in callbacks):
        callbacks.append(WriteSamples())


def claim_folder(trainer: Trainer, start: str | None) -> None:
    """Keep out of the folder of another run, before loggers delete what lies there.

    Args:
        trainer: Of a training that is about to begin.
        start: Checkpoint of the run that goes on, if one does.
    """
    refuse_nonsense(trainer)
    folder = log_folder(trainer)  # all processes may have to agree on it
    homes = [c.folder(trainer) for c in callbacks_of(trainer) if isinstance(c, fastgen.callbacks.Checkpoint)]
    if trainer.is_global_zero:  # nobody writes before all processes have come this far
        refuse_used(folder, OF_A_RUN, start, *homes)
        set_aside(folder / "metrics.csv")
    open_loggers(trainer)


def try_loggers(trainer: Trainer) -> None:
    """Find out what is wrong with loggers before anything is measured."""
    refuse_nonsense(trainer)
    open_loggers(trainer)


def by_class(callbacks: Any) -> dict[str, Any]:
    """Arguments of callbacks by their class (and name), as far as they were configured."""
    entries = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    named = {}
    for entry in entries:
        arguments = entry.get("init_args") or {}
        named[" ".join(filter(None, [entry["class_path"].rsplit(".", 1)[-1], arguments.get("name")]))] = arguments
    return named
