"""Loggers open their files only when the first number comes, which is late to find out that they cannot."""

from __future__ import annotations

import os

from lightning.pytorch import Trainer

from fastgen import checks
from fastgen.building import building
from fastgen.callbacks.surroundings import log_folder
from fastgen.refusals import unwritable


def refuse_versions(trainer: Trainer) -> None:
    """Raise for a version below 0.

    Raises:
        UserError: Naming the logger.
    """
    for logger in trainer.loggers:
        if isinstance(logger.version, int):
            checks.whole(f"trainer.logger ({type(logger).__name__})", 0, version=logger.version)


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
