"""What a callback asks its trainer: the folder of the run, the data module, the other callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller


def distiller(module: LightningModule) -> Distiller:
    """The module in training as what it is: callbacks of fastgen are for methods of fastgen, Lightning's for any."""
    return cast("Distiller", module)


def log_folder(trainer: Trainer) -> Path:
    """The folder of the run: the logger's, or ``trainer.default_root_dir``. Every rank must ask."""
    return Path(trainer.log_dir or ".")


def in_run(trainer: Trainer, path: str) -> Path:
    """A path in which ``<log_dir>`` stands for the folder of the run. Every rank must ask."""
    return Path(path.replace("<log_dir>", str(log_folder(trainer)))).expanduser()


def data_of(trainer: Any) -> Any:
    """The data module, or ``None``."""
    return trainer.datamodule


def callbacks_of(trainer: Any) -> list[Callback]:
    """All callbacks in the order in which they are called."""
    return trainer.callbacks


def place(callback: Callback, trainer: Any, first: bool) -> None:
    """Have ``callback`` called before or after all others, wherever the user listed it; to be called in ``setup``."""
    others = [other for other in trainer.callbacks if other is not callback]
    trainer.callbacks = [callback, *others] if first else [*others, callback]  # a new list: the old one is in use


def log_scalars(trainer: Trainer, values: Mapping[str, float], step: int) -> None:
    """Send numbers to the loggers at x = ``step`` and make them visible to callbacks that monitor."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step)
        logger.save()
    numbers = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    trainer.callback_metrics.update(numbers)
