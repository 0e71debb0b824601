"""The folder of a run belongs to that run: others neither overwrite it nor mix with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from fastgen.callbacks.trainer_access import log_folder
from fastgen.errors import UserError
from fastgen.storage.files import write_text
from fastgen.storage.writing import remove_leftovers

RUNS = "fastgen_runs"
"""Where the folders of runs without a logger lie, below ``trainer.default_root_dir``."""
OF_A_RUN = ("config.yaml", "metrics.jsonl", "health.jsonl", "throughput.json", "grids/*.png", "checkpoints/*.ckpt")
"""What a run leaves in its folder."""
CHECKPOINTS = ("*.ckpt", "*.safetensors")
"""What a run leaves where its checkpoints go."""


def next_version(root: str | Path) -> Path:
    """``<root>/fastgen_runs/version_3`` if there are three; what loggers do, for runs that have none."""
    folder = Path(root) / RUNS
    taken = [int(found[1]) for path in folder.glob("version_*") if (found := re.fullmatch(r"version_(\d+)", path.name))]
    return folder / f"version_{max(taken, default=-1) + 1}"


def first_of(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    """A file in ``folder`` that matches a pattern."""
    return next((path for pattern in patterns for path in folder.glob(pattern)), None)


def refuse_used(folder: Path, patterns: tuple[str, ...], start: Any, *also: Path) -> None:
    """Raise a ``UserError`` if another run has left files in ``folder``.

    Args:
        folder: Where a run is about to write.
        patterns: Names of files that would mix.
        start: The checkpoint from which the run goes on, if any; one in ``folder`` is of the same run.
        also: Further folders of which this is true.
    """
    if start and any(Path(start).resolve().is_relative_to(place.resolve()) for place in (folder, *also)):
        return
    if (found := first_of(folder, patterns)) is not None:
        raise UserError(
            f"'{folder}' holds another run ('{found}'), and two runs in one folder would mix; give another folder, or "
            "go on with that run by --ckpt_path."
        )


def set_aside(path: Path) -> None:
    """Give a file that would be deleted a number, e.g. ``metrics-0.csv``."""
    if path.is_file():
        taken = len(list(path.parent.glob(f"{path.stem}-*{path.suffix}")))
        path.rename(path.with_name(f"{path.stem}-{taken}{path.suffix}"))


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of a ``.jsonl`` file about student updates that a resumed run makes once more."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if updates_of(line) <= step]
    if kept != lines:
        write_text(path, "".join(kept))


def updates_of(line: str) -> float:
    """The student updates that a line is about; infinite if it was cut short."""
    try:
        return float(json.loads(line)["student_updates"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the folder of the run, whole."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Write it before anything else; ``validate`` and others leave that of a training alone."""
        if self.already_saved:
            return
        self.already_saved = True
        path = log_folder(trainer) / self.config_filename
        training = trainer.state.fn == TrainerFn.FITTING
        if trainer.is_global_zero and (training or not path.exists()):
            remove_leftovers(path.parent)
            write_text(path, self.text())

    def text(self) -> str:
        """The configuration as YAML."""
        return self.parser.dump(self.config, skip_none=False)
