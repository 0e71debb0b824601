"""Loggers open their files only when the first number comes, which is late to find out that they cannot."""

from __future__ import annotations

import os

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from fastgen import checks
from fastgen.callbacks.trainer_access import log_folder
from fastgen.configuration.building import building
from fastgen.errors import UserError
from fastgen.messages import shown
from fastgen.refusals import unwritable

COUNTS = ("max_queue", "flush_secs")
TEXTS = ("comment", "filename_suffix")
"""Options that TensorBoardLogger hands on to a library that looks at them in a thread of its own, too late."""


def refuse_nonsense(trainer: Trainer) -> None:
    """Check what loggers do not check themselves.

    Raises:
        UserError: Naming the logger and the option.
    """
    for logger in trainer.loggers:
        owner, given = f"trainer.logger ({type(logger).__name__})", getattr(logger, "_kwargs", {})
        if isinstance(logger.version, int):
            checks.whole(owner, 0, version=logger.version)
        if isinstance(logger, TensorBoardLogger):
            checks.whole(owner, 0, purge_step=given.get("purge_step"))
            checks.whole(owner, **{name: given.get(name) for name in COUNTS})
            for name in TEXTS:
                if not isinstance(given.get(name, ""), str):
                    raise UserError(f"{owner}: {name} must be text, got {shown(given[name])}.")


def open_loggers(trainer: Trainer) -> None:
    """Have every logger begin now.

    Raises:
        UserError: If its arguments make no sense to its library, or its folder cannot be written.
    """
    for logger in trainer.loggers:
        with building(f"trainer.logger ({type(logger).__name__})"):
            try:
                getattr(logger, "experiment", None)
            except OSError as error:
                raise unwritable(os.fsdecode(error.filename or log_folder(trainer)), error) from error
