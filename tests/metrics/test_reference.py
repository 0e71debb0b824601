"""References in files: what is read, and the one sentence for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import unplug
from feature_space import Space
from safetensors import safe_open
from safetensors.torch import save_file

from fastgen.errors import UserError
from fastgen.metrics import FrechetDistance, ImageMetrics, KernelDistance, VendiScore
from fastgen.metrics.extractors.toy_features import Pixels
from fastgen.metrics.samples.frechet import frechet_distance, moments
from fastgen.metrics.samples.reference import KEY, read_reference, write_reference

EXTRACTOR = Pixels(size=2, channels=1)


def images(count: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 1, 4, 4), generator=g, dtype=torch.uint8)


def write(path: Path, count: int = 60, seed: int = 0, fingerprint: str | None = None, keep: bool = True) -> Path:
    features = EXTRACTOR(images(count, seed))
    sums = FrechetDistance().build(Space(4))
    sums.update(features)
    label = torch.arange(count) % 2
    name = fingerprint or EXTRACTOR.fingerprint()
    kept = (features, label) if keep else (None, None)
    return write_reference(path, sums.total, sums.outer, count, name, *kept, {"pixels": "random"})


def test_file_equals_images(tmp_path: Path):
    path = write(tmp_path / "ref.safetensors")
    by_file = ImageMetrics(EXTRACTOR, reference=str(path), reference_count=60)
    by_images = ImageMetrics(EXTRACTOR)
    assert not by_file.needs_reference and by_images.needs_reference
    by_file.set_reference(None)
    by_images.set_reference({"samples": images(60, 0), "label": torch.arange(60) % 2})
    for suite in (by_file, by_images):
        suite.update(images(50, 1), torch.arange(50) % 2)
    assert by_file.compute() == pytest.approx(by_images.compute(), rel=1e-9)
    assert "ref.safetensors" in by_file.reference_name and by_images.reference_name == "data"
    about = read_reference(path).description
    assert about["count"] == 60 and about["pixels"] == "random" and len(about["sha256"]) == 64


def test_moments_alone_serve_the_frechet_distance_alone(tmp_path: Path):
    path = str(write(tmp_path / "ref.safetensors", keep=False))
    suite = ImageMetrics(EXTRACTOR, metrics=[FrechetDistance()], reference=path)
    suite.set_reference(None)
    suite.update(images(50, 1))
    expected = frechet_distance(*moments(EXTRACTOR(images(50, 1))), *moments(EXTRACTOR(images(60, 0))))
    assert suite.compute() == {"frechet": pytest.approx(expected), "count": 50, "reference_count": 60}
    with pytest.raises(UserError, match=r"KernelDistance need the features .* 'fastgen stats --features'"):
        ImageMetrics(EXTRACTOR, metrics=[FrechetDistance(), KernelDistance()], reference=path).set_reference(None)


def test_edm_npz(tmp_path: Path):
    mean, cov = moments(EXTRACTOR(images(60, 0)))
    np.savez(tmp_path / "edm.npz", mu=mean.numpy(), sigma=cov.numpy())
    suite = ImageMetrics(EXTRACTOR, metrics=[FrechetDistance(), VendiScore()], reference=str(tmp_path / "edm.npz"))
    suite.set_reference(None)
    suite.update(images(50, 1))
    numbers = suite.compute()
    expected = frechet_distance(*moments(EXTRACTOR(images(50, 1))), mean, cov)
    assert numbers["frechet"] == pytest.approx(expected) and 1 < numbers["vendi"] < 4
    assert "reference_count" not in numbers  # the file does not say


def test_statistics_of_clean_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From the cache; offline one sentence names file and address."""
    unplug(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"'cifar10_clean_train_32\.npz'.*cmu\.edu/~clean-fid/stats.*as 'reference'"):
        read_reference("clean-fid:cifar10_clean_train_32")
    mean, cov = moments(EXTRACTOR(images(60, 0)))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(cache / "cifar10_clean_train_32.npz", mu=mean.numpy(), sigma=cov.numpy())
    found = read_reference("clean-fid:cifar10_clean_train_32")
    assert torch.equal(found.mean, mean) and torch.equal(found.cov, cov) and "cifar10_clean_train_32" in found.name


def damaged(path: Path) -> Path:
    """One bit of the numbers flipped."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(data)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-40])
    return path


def miscounted(path: Path) -> Path:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()[KEY])
    save_file(tensors, path, {KEY: json.dumps(about | {"count": 61})})
    return path


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def pickled(path: Path) -> Path:
    np.savez(path, mu=np.array([{}], dtype=object), sigma=np.zeros((1, 1)))
    return path


def foreign(path: Path) -> Path:
    save_file({"x": torch.zeros(2)}, path)
    return path


def text(path: Path) -> Path:
    path.write_text("not a zip")
    return path


BAD = {
    "missing": (lambda folder: folder / "none.safetensors", "does not exist"),
    "damaged": (lambda folder: damaged(write(folder / "a.safetensors")), "damaged"),
    "cut": (lambda folder: cut(write(folder / "a.safetensors")), "not a readable safetensors"),
    "miscounted": (lambda folder: miscounted(write(folder / "a.safetensors")), "61 images but holds 60"),
    "foreign": (lambda folder: foreign(folder / "a.safetensors"), "no reference"),
    "folder": (lambda folder: folder, "is a folder"),
    "other weights": (lambda folder: write(folder / "a.safetensors", fingerprint="inception/x"), "made by inception/x"),
    "other count": (lambda folder: write(folder / "a.safetensors", count=30), "stands for 30 images, not for 60"),
    "npz of other features": (lambda folder: npz(folder / "a.npz", mu=np.zeros(7), sigma=np.eye(7)), "7 features"),
    "npz without moments": (lambda folder: npz(folder / "a.npz", arr_0=np.zeros(7)), "no mu and sigma but arr_0"),
    "npz of no moments": (lambda folder: npz(folder / "a.npz", mu=np.zeros(4), sigma=np.zeros(4)), "no moments"),
    "npz with objects": (lambda folder: pickled(folder / "a.npz"), "allow_pickle"),
    "npz that is text": (lambda folder: text(folder / "a.npz"), "not a readable .npz"),
    "pickle": (lambda folder: text(folder / "a.pkl"), "is a pickle"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_sentence(name: str, tmp_path: Path):
    make, says = BAD[name]
    path = make(tmp_path)
    with pytest.raises(UserError, match=says) as caught:
        ImageMetrics(EXTRACTOR, reference=str(path), reference_count=60).set_reference(None)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
