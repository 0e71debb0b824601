"""References in files: what real images look like to an extractor, without the images."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.errors import Malformed, UserError
from fastgen.metrics.extractors.weights import Release, find_weights
from fastgen.metrics.samples.frechet import moments_of_sums
from fastgen.refusals import reason_of, refuse_special, unreadable
from fastgen.storage.documents import parse_json
from fastgen.storage.files import load_tensors, resolve, save_tensors, sha256

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
    about = _about(metadata.get(KEY), path)
    count, features, label = about["count"], tensors.get("features"), tensors.get("label")
    if (sha := digest(tensors)) != about["sha256"]:
        raise UserError(f"The reference '{path}' is damaged (its numbers do not fit its sha256); copy it again.")
    total, outer = (tensors.get(name) for name in ("total", "outer"))
    if total is None or outer is None or total.ndim != 1 or outer.shape != (len(total), len(total)):
        raise UserError(f"'{path}' is no reference, because it holds no sums; write one with 'fastgen stats'.")
    if total.dtype != torch.float64 or outer.dtype != torch.float64 or not (_finite(total) and _finite(outer)):
        raise UserError(f"The sums of the reference '{path}' are no finite fp64 numbers; write it again.")
    if count < 2 or (features is not None and len(features) != count):
        inside = count if features is None else len(features)
        raise UserError(f"The reference '{path}' stands for {count} images but holds {inside}; write it again.")
    if features is not None and (features.shape != (count, len(total)) or not _finite(features)):
        raise UserError(f"The features of the reference '{path}' are no finite numbers of its sums; write it again.")
    if label is not None and (label.shape != (count,) or label.dtype != torch.int64):
        raise UserError(f"The labels of the reference '{path}' are not one whole number per image; write it again.")
    mean, cov = moments_of_sums(total, outer, count)
    name = f"'{found.name}' (sha256 {sha[:16]})"
    return Reference(mean, cov, count, about["fingerprint"], features, label, about, name)


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _about(text: str | None, path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a reference says about itself."""
    about: Any = None
    if text is not None:
        with contextlib.suppress(Malformed):
            about = parse_json(text)
    if not isinstance(about, dict):
        raise UserError(f"'{path}' is no reference; write one with 'fastgen stats'.")
    if about.get("format") != FORMAT:
        raise UserError(
            f"'{path}' is a reference of format {about.get('format')}, this fastgen reads {FORMAT}; write it again "
            "with 'fastgen stats'."
        )
    for name, kind in (("count", int), ("fingerprint", str), ("sha256", str)):
        if not isinstance(about.get(name), kind):
            raise UserError(f"'{path}' is no reference, because it lacks '{name}'; write one with 'fastgen stats'.")
    return about


def _from_clean_fid(name: str) -> Path:
    file = f"{name.removeprefix(CLEAN_FID)}.npz"
    return find_weights(
        None, Release((file,), f"{CLEAN_FID_STATISTICS}/{file}"), f"The reference '{name}'", "reference"
    )


def _read_npz(path: Path) -> Reference:
    import numpy as np

    refuse_special(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"mu", "sigma"} <= set(file.files):
                raise UserError(f"'{path}' has no mu and sigma but {', '.join(file.files) or 'nothing'}; give another.")
            raw = [np.asarray(file[name]) for name in ("mu", "sigma")]
    except UserError:
        raise
    except Exception as error:  # zip, zlib, numpy and its parser of headers have errors of their own
        if getattr(error, "errno", None) is not None:
            raise unreadable(path, error) from error
        raise UserError(f"'{path}' is not a readable .npz file ({reason_of(error)}); copy it again.") from error
    if any(part.dtype.kind not in "fiu" for part in raw):
        raise UserError(f"mu and sigma of '{path}' are no real numbers; give another file.")
    mean, cov = (torch.as_tensor(part.astype(np.float64)) for part in raw)
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or not len(mean) or not (_finite(mean) and _finite(cov)):
        raise UserError(
            f"mu {tuple(mean.shape)} and sigma {tuple(cov.shape)} of '{path}' are no moments; give another file."
        )
    if not torch.allclose(cov, cov.T, rtol=1e-4, atol=1e-6 * float(cov.diagonal().abs().max())) or (
        float(cov.diagonal().min()) < 0
    ):
        raise UserError(f"sigma of '{path}' is no covariance (not symmetric, or a negative variance); give another.")
    return Reference(mean, cov, 0, None, name=f"'{path.name}' (sha256 {sha256(path)[:16]})")
