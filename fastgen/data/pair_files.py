"""A folder of pairs: a manifest and safetensors shards of (seed, noise?, x0, condition), all in the denoiser's space.

Pair ``i`` is row ``i % shard_size`` of shard ``i // shard_size``. It is made from the seed ``first_seed + i``, as
``fastgen sample`` would make it, so the noise need not be stored. A tensor of the condition that is the same for a
whole shard (e.g. the embedding of the empty prompt) is stored once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.refusals import reading, refuse_special
from fastgen.storage.documents import read_json
from fastgen.storage.files import load_tensors, save_tensors, write_json

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
    if not path.exists():
        raise UserError(f"'{folder}' holds no {MANIFEST}; give a folder that 'fastgen pairs' wrote.")
    found = read_json(path, "make the pairs again with 'fastgen pairs'")
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"'{path}' is no manifest of format {FORMAT}; make the pairs again with 'fastgen pairs'.")
    for name in ("count", "shard_size"):
        if not isinstance(found.get(name), int) or not 0 < found[name] < 2**62:
            raise UserError(f"'{path}' has no positive whole '{name}'; make the pairs again with 'fastgen pairs'.")
    shape, condition, classes = (found.get(name) for name in ("sample_shape", "condition", "num_classes"))
    if (
        not (isinstance(shape, list) and shape and all(isinstance(side, int) and side > 0 for side in shape))
        or not (isinstance(condition, list) and all(isinstance(name, str) for name in condition))
        or not (classes is None or (isinstance(classes, int) and classes >= 0))
    ):
        raise UserError(f"'{path}' does not say what its pairs are; make them again with 'fastgen pairs'.")
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
    """Number of pairs in a shard; 0 if it does not exist or is no whole file, so that it is made again.

    Raises:
        UserError: If the file may not be read, or is no file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return 0
    refuse_special(path)
    with reading(path), contextlib.suppress(SafetensorError), safe_open(path, framework="pt") as file:
        return int(file.get_slice("seed").get_shape()[0])
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
