"""A folder of pairs: a manifest and safetensors shards of (seed, noise?, x0, condition), all in the denoiser's space.

Pair ``i`` is row ``i % shard_size`` of shard ``i // shard_size``. It is made from the seed ``first_seed + i``, as
``fastgen sample`` would make it, so the noise need not be stored. A tensor of the condition that is the same for a
whole shard (e.g. the embedding of the empty prompt) is stored once.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from torch import Tensor

from fastgen.errors import UserError
from fastgen.refusals import reading, refuse_special
from fastgen.storage.documents import read_json
from fastgen.storage.files import save_tensors, write_json

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
