"""A folder of pairs: a manifest and safetensors shards of (seed, noise?, x0, condition), all in the denoiser's space.

Pair ``i`` is row ``i % shard_size`` of shard ``i // shard_size``. It is made from the seed ``first_seed + i``, as
``fastgen sample`` would make it, so the noise need not be stored. A tensor of the condition that is the same for a
whole shard (e.g. the embedding of the empty prompt) is stored once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.files import save_tensors, write_json

MANIFEST = "manifest.json"
FORMAT = 1
CONDITION = "condition."


def shard_path(folder: Path, number: int) -> Path:
    """``pairs-00007.safetensors``."""
    return folder / f"pairs-{number:05d}.safetensors"


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the pairs in ``folder`` are and how they were made.

    Raises:
        UserError: If the manifest is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"'{path}' cannot be read ({error}); give a folder that 'fastgen pairs' wrote.") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"'{path}' is no manifest of format {FORMAT}; make the pairs again with 'fastgen pairs'.")
    return found


def claim(folder: Path, wanted: dict[str, Any]) -> None:
    """Begin ``folder``, or check that it was begun with the same settings; only ``count`` may grow.

    Raises:
        UserError: If the folder holds other pairs or other files.
    """
    if (folder / MANIFEST).exists():
        found = read_manifest(folder)
        for key in wanted.keys() - {"count"}:
            if found.get(key) != wanted[key]:
                raise UserError(
                    f"'{folder}' was begun with another {key} ({found.get(key)}, now {wanted[key]}); give another "
                    "--out, or delete it."
                )
        if found["count"] >= wanted["count"]:
            return
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' exists and was not made by 'fastgen pairs'; give another --out.")
    write_json(folder / MANIFEST, wanted)


def write_shard(path: Path, tensors: dict[str, Tensor], condition: dict[str, Tensor]) -> None:
    """Write a shard atomically."""
    for name, value in condition.items():
        same = len(value) > 1 and bool((value == value[:1]).all())
        tensors[CONDITION + name] = (value[:1] if same else value).clone()
    save_tensors(path, tensors)


def rows_of(path: Path) -> int:
    """Number of pairs in a shard; 0 if it does not exist or is no whole file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice("seed").get_shape()[0])
    except (FileNotFoundError, SafetensorError):
        return 0


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
        missing = [number for number in shards if not shard_path(folder, number).exists()]
        if missing:
            raise UserError(
                f"{len(missing)} of the {len(shards)} shards in '{folder}' are missing, first "
                f"'{shard_path(folder, missing[0]).name}'; repeat the 'fastgen pairs' command, it makes the missing."
            )
        self._open: dict[int, dict[str, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # mapped files do not travel to worker processes

    def _shard(self, number: int) -> dict[str, Tensor]:
        """The tensors of a shard; they are views of the mapped file, so only rows that are used are read."""
        from safetensors import SafetensorError, safe_open

        if number not in self._open:
            path = shard_path(self.folder, number)
            try:
                with safe_open(path, framework="pt") as file:
                    self._open[number] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"'{path}' cannot be read ({error}); delete it and repeat the 'fastgen pairs' command."
                ) from error
        return self._open[number]

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
                result[name][here] = values[:1] if stored_once else values[rows[here]]
        return result
