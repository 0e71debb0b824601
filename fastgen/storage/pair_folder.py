"""Reading a folder of pairs: rows by number, from shards that are memory-mapped when they are first needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.storage.files import load_tensors
from fastgen.storage.pair_files import CONDITION, read_manifest, shard_path


class PairFolder:
    """Reads pairs by number; shards are memory-mapped when they are first needed.

    Args:
        folder: Written by ``fastgen pairs``.

    Raises:
        UserError: If pairs are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.count, self.shard_size = int(self.manifest["count"]), int(self.manifest["shard_size"])
        shards = range(-(-self.count // self.shard_size))
        present = {path.name for path in folder.glob("pairs-*.safetensors")}
        if first := next((path.name for n in shards if (path := shard_path(folder, n)).name not in present), None):
            raise UserError(
                f"{max(1, len(shards) - len(present))} of the {len(shards)} shards in '{folder}' are missing, first "
                f"'{first}'; repeat the 'fastgen pairs' command, it makes the missing."
            )
        self._open: dict[int, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # mapped files do not travel to worker processes

    def _shard(self, number: int) -> dict[str, Tensor]:
        """The tensors of a shard; they are views of the mapped file, so only rows that are used are read."""
        if number not in self._open:
            path = shard_path(self.folder, number)
            tensors = load_tensors(path)[0]
            if problem := self._problem(tensors, min(self.shard_size, self.count - number * self.shard_size)):
                raise UserError(f"'{path}' {problem}; delete it and repeat the 'fastgen pairs' command.")
            self._open[number] = {name: tensors[name] for name in self._names}
        return self._open[number]

    @property
    def _names(self) -> list[str]:
        """The tensors of every shard; what else a file may hold is nobody's."""
        noise = ["noise"] if self.manifest.get("noise") else []
        return ["seed", "x0", *noise, *(CONDITION + name for name in self.manifest["condition"])]

    def _problem(self, tensors: dict[str, Tensor], rows: int) -> str | None:
        """Why these are not the pairs that the manifest promises, if so."""
        manifest = self.manifest
        shape = tuple(manifest["sample_shape"])
        wanted = {"seed": (), "x0": shape} | ({"noise": shape} if manifest.get("noise") else {})
        for name in self._names:
            if name not in tensors:
                return f"lacks '{name}'"
            found = tensors[name]
            if name in wanted and tuple(found.shape[1:]) != wanted[name]:
                return f"has '{name}' of shape {tuple(found.shape[1:])} instead of {wanted[name]} per pair"
            if found.ndim < 1 or (len(found) < rows and not (len(found) == 1 and name not in wanted)):
                return f"has fewer than {rows} rows of '{name}'"
            if name == "seed" and found.dtype != torch.int64:
                return "has seeds that are no whole numbers"
            if name in wanted and name != "seed" and not found.is_floating_point():
                return f"has '{name}' that is no floating-point number"
        return None

    def read(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The tensors of pairs ``indices``: ``seed`` (B,), ``x0`` (B, ...), maybe ``noise``, ``condition.<name>``."""
        wanted = torch.as_tensor(indices)
        shards, rows = wanted // self.shard_size, wanted % self.shard_size
        result: dict[str, Tensor] = {}
        for number in shards.unique().tolist():
            here = shards == number
            for name, values in self._shard(number).items():
                if name not in result:
                    result[name] = values.new_empty(len(wanted), *values.shape[1:])
                stored_once = len(values) == 1
                part = values[:1] if stored_once else values[rows[here]]
                if part.shape[1:] != result[name].shape[1:] or not bool(part.isfinite().all()):
                    raise UserError(
                        f"'{shard_path(self.folder, number)}' holds '{name}' of another shape or numbers that are not "
                        "finite; delete it and repeat the 'fastgen pairs' command."
                    )
                result[name][here] = part
        return result

    def pairs(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Noise (B, ...), the x0 that a solver made of it (B, ...), and the conditions of pairs ``indices``."""
        found = self.read(indices)
        x0, seeds = found["x0"], found["seed"].tolist()
        noise = found["noise"] if "noise" in found else Draws(0, seeds, "sample").normal("noise", x0.shape[1:])
        condition = {n.removeprefix(CONDITION): value for n, value in found.items() if n.startswith(CONDITION)}
        return noise, x0, condition
