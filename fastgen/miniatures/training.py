"""What the training of an autoencoder and of a contrastive pair have in common."""

from __future__ import annotations

import copy
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from time import process_time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from fastgen import checks
from fastgen.randomness import Draws

WARM_UP = 100
"""Updates until the learning rate is reached."""
CONSTANT, LAST = 0.5, 0.02
"""Share of the run before the learning rate falls, and where it ends, as a share of the largest."""


def rate(update: int, length: int) -> float:
    """The learning rate of an update as a share of the largest: a ramp, a plateau, a line down."""
    if update < WARM_UP:
        return (update + 1) / WARM_UP
    fallen = max(0.0, (update / max(length, 1) - CONSTANT) / (1 - CONSTANT))
    return max(LAST, 1 - (1 - LAST) * fallen)


class PartTraining(LightningModule, ABC):
    """Trains a part of a pipeline by AdamW, and writes it as a folder that ``from_pretrained`` reads.

    Args:
        learning_rate: Largest learning rate.
        folder: Where the part is written at the end; ``<log_dir>`` stands for the folder of the run.
    """

    def __init__(self, learning_rate: float = 1e-3, folder: str = "<log_dir>/part") -> None:
        checks.positive(self, learning_rate=learning_rate)
        super().__init__()
        self.learning_rate = learning_rate
        self.folder = folder
        self.sums: dict[str, list[float]] = {}
        self.spent = 0.0
        self.begun = process_time()

    @abstractmethod
    def loss(self, batch: Mapping[str, Any], draws: Draws) -> dict[str, Tensor]:
        """The terms of the loss of a batch."""

    @abstractmethod
    def measure(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Numbers of a held-out batch, whose means :meth:`summary` sees."""

    def summary(self, means: Mapping[str, float]) -> dict[str, float]:
        """What is said of the held-out samples."""
        return dict(means)

    def finish(self, batch: Mapping[str, Any]) -> None:
        """What is set when training is over, from a held-out batch."""

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Networks, and folders that are copied, by the name of their folder; ``""`` is ``self.folder`` itself."""

    @property
    def iteration(self) -> int:
        """Batches done, which tells the data module where to go on."""
        return self.trainer.global_step

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """One update; noise is that of the samples' numbers."""
        terms = self.loss(batch, Draws(0, batch["index"].tolist(), "part", self.device))
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        return torch.stack(list(terms.values())).sum()

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Measure, weighted by the number of samples."""
        size = len(batch["index"])
        for name, value in self.measure(batch).items():
            total = self.sums.setdefault(name, [0.0, 0.0])
            total[0] += float(value) * size
            total[1] += size

    @property
    def cpu_minutes(self) -> float:
        """Processor time of this process and those that it continues."""
        return (self.spent + process_time() - self.begun) / 60

    def on_validation_epoch_end(self) -> None:
        """Log the summary, and one line of it to the run's folder."""
        numbers = self.summary({name: total / count for name, (total, count) in self.sums.items()})
        self.sums = {}
        self.log_dict({f"val/{name}": value for name, value in numbers.items()})
        row = {"update": self.trainer.global_step, "cpu_minutes": round(self.cpu_minutes, 2), **numbers}
        with open(self.home / "measured.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    @property
    def home(self) -> Path:
        """The folder of the run."""
        folder = Path(self.trainer.log_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def on_fit_end(self) -> None:
        """Write the parts."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.eval()
        self.finish(next(iter(data.val_dataloader())))
        self.write(Path(self.folder.replace("<log_dir>", str(self.home))))

    def write(self, folder: Path) -> None:
        """Write every part in fp16 as safetensors."""
        for name, part in self.parts().items():
            if isinstance(part, Path):
                shutil.copytree(part, folder / name, dirs_exist_ok=True)
            else:
                copy.deepcopy(part).half().save_pretrained(folder / name)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the processor time."""
        checkpoint["cpu_minutes"] = self.cpu_minutes

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.spent = 60 * float(checkpoint["cpu_minutes"])

    def configure_optimizers(self) -> Any:
        """AdamW and :func:`rate`, which ends with ``trainer.max_steps``."""
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: rate(update, self.trainer.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
