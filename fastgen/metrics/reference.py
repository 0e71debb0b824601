"""References in files: what real images look like to an extractor, without the images."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.files import load_tensors, resolve, save_tensors
from fastgen.metrics.frechet import moments_of_sums
from fastgen.metrics.weights import Release, find_weights

FORMAT = 1
CLEAN_FID = "clean-fid:"
CLEAN_FID_STATISTICS = "https://www.cs.cmu.edu/~clean-fid/stats"
"""Where clean-fid publishes statistics, named ``<data set>_<resize>_<split>_<resolution>.npz``."""
KEY = "fastgen_reference"
"""The one metadata entry of a reference file: JSON (safetensors writes several entries in random order)."""


@dataclass(frozen=True)
class Reference:
    """What a reference file holds.

    Attributes:
        mean: (D,) fp64.
        cov: Unbiased covariance (D, D), fp64.
        count: Number of images, 0 if the file does not say.
        fingerprint: Of the extractor that made it, ``None`` if the file does not say.
        features: (count, D) fp32, if the file has them.
        label: (count,) int64, if the file has them.
        description: Everything else that the file says about itself.
        name: File name and digest, to stand next to numbers.
    """

    mean: Tensor
    cov: Tensor
    count: int
    fingerprint: str | None
    features: Tensor | None = None
    label: Tensor | None = None
    description: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def check(self, num_features: int, fingerprint: str, count: int | None = None) -> None:
        """Refuse to be compared with other features or to stand for another number of images.

        Args:
            num_features: D of the features to compare with.
            fingerprint: Of the extractor that makes them.
            count: Number of images that the reference must stand for; ``None`` for any.

        Raises:
            UserError: If anything differs.
        """
        if self.fingerprint is not None and self.fingerprint != fingerprint:
            raise UserError(
                f"The reference {self.name} was made by {self.fingerprint}, but the metrics use {fingerprint}; give "
                "them the extractor of the reference, or write a new one with 'fastgen stats'."
            )
        if len(self.mean) != num_features:
            raise UserError(
                f"The reference {self.name} has {len(self.mean)} features, but the extractor has {num_features}; give "
                "the extractor that it was made with."
            )
        if count is not None and self.count not in (0, count):
            raise UserError(
                f"The reference {self.name} stands for {self.count} images, not for {count} as reference_count says; "
                "give the file that the protocol names, or remove reference_count."
            )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names, types, shapes and bytes."""
    result = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        result.update(tensor.contiguous().numpy().tobytes())
    return result.hexdigest()


def write_reference(
    path: str | os.PathLike[str],
    total: Tensor,
    outer: Tensor,
    count: int,
    fingerprint: str,
    features: Tensor | None = None,
    label: Tensor | None = None,
    description: Mapping[str, Any] | None = None,
) -> Path:
    """Write a reference.

    Args:
        path: A ``.safetensors`` file.
        total: Sum of the features (D,), fp64.
        outer: Sum of their outer products (D, D), fp64.
        count: Number of images.
        fingerprint: Of the extractor.
        features: All features (count, D), for the metrics that need single images.
        label: Their labels (count,).
        description: Whatever else belongs to it.
    """
    tensors = {"total": total.double().cpu(), "outer": outer.double().cpu()}
    if features is not None:
        tensors["features"] = features.float().cpu()
        if label is not None:
            tensors["label"] = label.long().cpu()
    about = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "count": count,
        "sha256": digest(tensors),
        **(description or {}),
    }
    return save_tensors(path, tensors, {KEY: json.dumps(about)})


def read_reference(path: str | os.PathLike[str]) -> Reference:
    """A reference that ``fastgen stats`` wrote, or an ``.npz`` with ``mu`` and ``sigma`` as EDM, ADM and clean-fid
    publish it.

    Args:
        path: The file, or ``clean-fid:cifar10_clean_train_32`` and the like for one of clean-fid's, taken from
            PyTorch's cache or downloaded.

    Raises:
        UserError: If the file is missing, damaged or something else.
    """
    found = _from_clean_fid(str(path)) if str(path).startswith(CLEAN_FID) else resolve(path)
    if found.is_dir():
        raise UserError(f"'{path}' is a folder, not a reference; write one with 'fastgen stats --data {path} ...'.")
    if found.suffix == ".npz":
        return _read_npz(found)
    if found.suffix in (".pkl", ".pickle"):
        raise UserError(
            f"'{path}' is a pickle, never loaded here; save its mu and sigma with numpy.savez and give that file."
        )
    tensors, metadata = load_tensors(found)
    try:
        about = json.loads(metadata[KEY])
        total, outer, count = tensors["total"], tensors["outer"], int(about["count"])
        fingerprint, expected = str(about["fingerprint"]), str(about["sha256"])
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"'{path}' is no reference; write one with 'fastgen stats'.") from error
    if (sha := digest(tensors)) != expected:
        raise UserError(f"The reference '{path}' is damaged (its numbers do not fit its sha256); copy it again.")
    features = tensors.get("features")
    if count < 2 or (features is not None and len(features) != count):
        inside = count if features is None else len(features)
        raise UserError(f"The reference '{path}' stands for {count} images but holds {inside}; write it again.")
    mean, cov = moments_of_sums(total, outer, count)
    name = f"'{found.name}' (sha256 {sha[:16]})"
    return Reference(mean, cov, count, fingerprint, features, tensors.get("label"), about, name)


def _from_clean_fid(name: str) -> Path:
    file = f"{name.removeprefix(CLEAN_FID)}.npz"
    return find_weights(
        None, Release((file,), f"{CLEAN_FID_STATISTICS}/{file}"), f"The reference '{name}'", "reference"
    )


def _read_npz(path: Path) -> Reference:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"mu", "sigma"} <= set(file.files):
                raise UserError(f"'{path}' has no mu and sigma but {', '.join(file.files) or 'nothing'}; give another.")
            mean, cov = (torch.as_tensor(np.asarray(file[name], dtype=np.float64)) for name in ("mu", "sigma"))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"'{path}' is not a readable .npz file ({reason}); copy it again.") from error
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or not bool(torch.isfinite(cov).all()):
        raise UserError(
            f"mu {tuple(mean.shape)} and sigma {tuple(cov.shape)} of '{path}' are no moments; copy it again."
        )
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return Reference(mean, cov, 0, None, name=f"'{path.name}' (sha256 {sha[:16]})")
