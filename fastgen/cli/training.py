"""A training that is started from Python; what it gives back."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fastgen.callbacks import Checkpoint
from fastgen.callbacks.trainer_access import callbacks_of, log_folder
from fastgen.cli.lightning import run
from fastgen.cli.noise import silence_noise
from fastgen.data import DistillationData
from fastgen.methods import Distiller
from fastgen.results.rows import Row, read_rows

Config = str | os.PathLike[str] | Mapping[str, Any]
"""A YAML file, or what would stand in one."""


@dataclass(frozen=True)
class Run:
    """A training that is over.

    Attributes:
        method: The method as it was trained, ready to sample; its teacher is in memory.
        data: The data module of the config, for ``evaluate(..., data=run.data)``.
        folder: What the run left: checkpoints, pictures, ``metrics.jsonl``, the config.
        checkpoint: The latest checkpoint, which :func:`load` builds the method from.
    """

    method: Distiller
    data: DistillationData
    folder: Path
    checkpoint: Path

    @property
    def rows(self) -> list[Row]:
        """What the run measured, in order."""
        return read_rows(self.folder / "metrics.jsonl")


def train(config: Config | Sequence[Config], options: Mapping[str, Any] | None = None) -> Run:
    """Train from a config, as ``fastgen fit`` does; its checkpoints know how the method was built.

    Args:
        config: A YAML file, its contents as a mapping, or several that are merged from left to right.
        options: What differs, by dotted name as on the command line: ``{"trainer.max_steps": 500}``.

    Raises:
        UserError: If the config is wrong; the sentence is that of the command.
    """
    several = [config] if isinstance(config, str | os.PathLike | Mapping) else list(config)
    words: list[str] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        silence_noise()
        for number, part in enumerate(several):
            if isinstance(part, Mapping):
                written, part = part, Path(folder) / f"{number}.yaml"
                part.write_text(yaml.safe_dump(dict(written), sort_keys=False), encoding="utf-8")
            words.append(f"--config={os.fspath(part)}")
        words += [f"--{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in (options or {}).items()]
        cli = run("fit", words)
    homes = [c.folder(cli.trainer) for c in callbacks_of(cli.trainer) if isinstance(c, Checkpoint)]
    folder_of_run = log_folder(cli.trainer).resolve()
    home = [*homes, folder_of_run / "checkpoints"][0].resolve()
    return Run(cli.model.eval(), cli.datamodule, folder_of_run, home / "last.ckpt")
