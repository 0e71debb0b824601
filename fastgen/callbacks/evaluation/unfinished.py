"""What an evaluation has measured so far, on disk, so that one that is killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import nn

from fastgen.callbacks.trainer_access import log_folder
from fastgen.errors import UserError
from fastgen.metrics.base import MetricSuite
from fastgen.sharding import whole
from fastgen.storage.files import load_tensors, save_tensors

FOLDER = "evaluation"
INDICES = "indices"
"""Name of the tensor that says which samples a file stands for."""


def weights_digest(network: nn.Module) -> str:
    """sha256 of everything in the state dict, sharded or not. Every rank must ask."""
    result = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        tensor = whole(value)
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        result.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()


def digest(parts: Sequence[str]) -> str:
    """96 bits of the sha256 of texts, in hexadecimal."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def settings_of(thing: Any) -> str:
    """The class and the plain attributes of a sampler or solver."""
    plain = {k: v for k, v in vars(thing).items() if v is None or isinstance(v, int | float | str | list | tuple)}
    return f"{type(thing).__name__} {json.dumps(plain, sort_keys=True, default=str)}"


class Unfinished:
    """The parts of one pass over evaluation samples that are on disk.

    Each rank writes what it has taken in, as one file with the numbers of its samples: first measured, last lost.
    Whoever starts later, on however many ranks, reads the files and measures the rest. The name stands for everything
    that a sample depends on (weights, steps, seeds, conditions, ...), so the files may as well lie in the folder of
    another run of the same name: ``fastgen test`` makes a new one each time.

    Args:
        trainer: Whose ranks measure.
        suite: What measures.
        name: A digest of what the samples and what is kept of them depend on.
        every_minutes: Time between files.
    """

    def __init__(self, trainer: Trainer, suite: MetricSuite, name: str, every_minutes: float) -> None:
        self.trainer = trainer
        self.suite = suite
        self.seconds = 60.0 * every_minutes
        runs = log_folder(trainer)
        self.folder = runs / FOLDER / name
        # A numbered folder lies beside those of earlier runs of the same name.
        others = sorted(runs.resolve().parent.glob(f"*/{FOLDER}/{name}")) if runs.name.startswith("version_") else []
        self.places = [self.folder, *others]
        self.done: list[int] = []
        self._loaded: list[Path] = []
        self._own: Path | None = None
        self._attempt = 0
        self._began = self._saved = time.monotonic()

    def resume(self) -> set[int]:
        """Have the suite take in what lies on disk; the numbers of those samples. Every rank must call it."""
        found: Any = self.survey() if self.trainer.is_global_zero else None
        files, self._attempt = self.trainer.strategy.broadcast(found)
        for number, (path, indices) in enumerate(files):
            if number % self.trainer.world_size == self.trainer.global_rank:
                tensors, _ = load_tensors(path)
                del tensors[INDICES]
                self.suite.add_partial_state(tensors)
                self.done += indices
                self._loaded.append(Path(path))
        return {index for _, indices in files for index in indices}

    def survey(self) -> tuple[list[tuple[str, list[int]]], int]:
        """The files to read with their samples, newest first, and a number that no file has yet."""
        paths = {path.resolve(): path for place in self.places for path in place.glob("*.safetensors")}
        attempts = {path: int(path.stem.split("-")[0]) for path in paths.values() if path.stem.split("-")[0].isdigit()}
        seen: set[int] = set()
        chosen: list[tuple[str, list[int]]] = []
        for path in sorted(attempts, key=lambda path: (-attempts[path], path.name)):
            try:
                indices = load_tensors(path)[0][INDICES].tolist()
            except (UserError, KeyError):
                continue  # damaged: measured again
            # A file that another has taken in is deleted after that was written; this one was not yet.
            if indices and not seen & set(indices):
                seen |= set(indices)
                chosen.append((str(path), indices))
        return chosen, max(attempts.values(), default=0) + 1

    def took_in(self, indices: Sequence[int]) -> None:
        """Note samples, and write what there is if it is time."""
        self.done += indices
        if time.monotonic() - self._saved >= self.seconds:
            self.save()

    def save(self) -> None:
        """Write everything that this rank has taken in, and delete what it had read."""
        path = self.folder / f"{self._attempt}-{self.trainer.global_rank}.safetensors"
        tensors = self.suite.partial_state() | {INDICES: torch.tensor(self.done)}
        save_tensors(path, tensors)
        self._own = path
        for old in self._loaded:
            old.unlink(missing_ok=True)
        self._loaded = []
        self._saved = time.monotonic()

    def complete(self) -> None:
        """All samples are in: write them if that took long, because others may follow."""
        if self._own is not None or time.monotonic() - self._began >= self.seconds:
            self.save()

    def remove(self) -> None:
        """Delete the files: the numbers are written. Every rank must call it."""
        for path in [*self._loaded, *([self._own] if self._own else [])]:
            path.unlink(missing_ok=True)
        self.trainer.strategy.barrier("fastgen.Unfinished.remove")
        if self.trainer.is_global_zero:
            for place in self.places:
                shutil.rmtree(place, ignore_errors=True)
                with suppress(OSError):  # missing, or another evaluation keeps its files there
                    place.parent.rmdir()
