"""``fastgen stats``: references of folders and configs, and one sentence for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from command_line import ROOT, fastgen, write
from PIL import Image

from fastgen.data.digits import load_digits_split
from fastgen.metrics import DigitsClassifier, Pixels, read_reference
from fastgen.metrics.samples.frechet import moments
from fastgen.pictures.pixels import to_uint8

DIGITS = ROOT / "configs" / "sid_digits.yaml"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Thirty random 12x12 pictures in two folders."""
    random = np.random.default_rng(0)
    for number in range(30):
        folder = tmp_path / "pictures" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return tmp_path / "pictures"


def test_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "digits.safetensors"
    words = ["--extractor=DigitsClassifier", f"--out={out}", "--features", "--batch_size=100", "--device=cpu"]
    assert fastgen("stats", f"--data={DIGITS}", *words) == 0
    assert "1437 images, 64 features of digits_classifier" in capsys.readouterr().out
    train = load_digits_split()[0]
    features = DigitsClassifier()(to_uint8(train.x0))
    reference = read_reference(out)
    mean, cov = moments(features)
    torch.testing.assert_close(reference.mean, mean, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(reference.cov, cov, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(reference.features, features, rtol=1e-5, atol=1e-5)
    assert reference.label.tolist() == train.label.tolist() and reference.count == 1437
    assert reference.fingerprint == DigitsClassifier().fingerprint()
    assert reference.description["preprocessing"] == "8x8grey" and reference.description["split"] == "train"
    assert fastgen("stats", f"--data={DIGITS}", *words, "--split=test", "--count=99") == 0
    assert read_reference(out).count == 99


def test_folder(pictures: Path, tmp_path: Path):
    out = tmp_path / "ref.safetensors"
    words = ["--extractor=Pixels", "--extractor.size=2", f"--out={out}", "--device=cpu"]
    assert fastgen("stats", f"--data={pictures}", *words, "--batch_size=7", "--num_workers=3") == 0
    files = sorted(pictures.rglob("*.png"))
    images = torch.stack([torch.from_numpy(np.asarray(Image.open(file))).permute(2, 0, 1) for file in files])
    reference = read_reference(out)
    torch.testing.assert_close(reference.mean, moments(Pixels(2)(images))[0])
    assert reference.features is None and reference.count == 30
    first = reference.description
    assert first["pixels"] == "rgb, 12x12 as stored" and len(first["files_sha256"]) == 64
    assert fastgen("stats", f"--data={pictures}", *words, "--resolution=8") == 0
    resized = read_reference(out).description
    assert resized["files_sha256"] == first["files_sha256"] and resized["pixels_sha256"] != first["pixels_sha256"]
    files[3].unlink()
    assert fastgen("stats", f"--data={pictures}", *words) == 0
    assert read_reference(out).description["files_sha256"] != first["files_sha256"]


def test_nested_extractor(pictures: Path, tmp_path: Path):
    out = tmp_path / "ref.safetensors"
    nested = ["--extractor=CentreCrop", "--extractor.size=4", "--extractor.extractor=Pixels"]
    nested += ["--extractor.extractor.size=2", "--extractor.extractor.channels=1"]
    assert fastgen("stats", f"--data={pictures}", *nested, f"--out={out}", "--color=grey", "--device=cpu") == 0
    assert read_reference(out).fingerprint.startswith("crop4+plumbing_pixels/mean2x2x1/")


def broken(folder: Path) -> Path:
    (folder / "0" / "00.png").write_bytes(b"no picture")
    return folder


def oblong(folder: Path) -> Path:
    Image.new("RGB", (9, 12)).save(folder / "0" / "00.png")
    return folder


def larger(folder: Path) -> Path:
    Image.new("RGB", (16, 16)).save(folder / "1" / "29.png")
    return folder


def empty(folder: Path) -> Path:
    (folder / "none").mkdir()
    return folder / "none"


BAD = {
    "missing": (lambda folder: folder / "absent", [], "absent"),
    "not a picture": (broken, [], "00.png"),
    "not a picture, later": (lambda folder: broken(folder).rename(folder.parent / "z"), ["--resolution=8"], "00.png"),
    "another shape": (oblong, [], "12x12 pixels, not 9x12; give --resolution, or --height and --width"),
    "another size": (larger, [], "29.png' is 16x16"),
    "two sizes": (lambda folder: folder, ["--resolution=8", "--height=9"], "give it or those two, not both"),
    "half a size": (lambda folder: folder, ["--width=8"], "width is given without height"),
    "size of a config": (lambda folder: DIGITS, ["--width=8", "--height=8"], "--height is for folders"),
    "no picture": (empty, [], "holds no image"),
    "no data in the config": (lambda folder: write(folder / "a.yaml", {"trainer": {}}), [], "has no 'data:'"),
    "not yaml": (lambda folder: folder / "0" / "00.png", [], "is no text"),
    "no images in the data": (lambda folder: ROOT / "configs" / "sid_sd15.yaml", [], "Prompts has no images"),
    "points": (lambda folder: ROOT / "configs" / "sid_mixture.yaml", ["--count=10"], "no images"),
    "bad class": (lambda folder: write(folder / "a.yaml", {"data": {"class_path": "Nothing"}}), [], "'Nothing'"),
    "wrong channels": (lambda folder: folder, ["--extractor.channels=1"], "channels"),
    "unknown extractor": (lambda folder: folder, ["--extractor=Eyes"], "'Eyes'"),
    "wrong suffix": (lambda folder: folder, ["--out=a.npz"], ".safetensors"),
    "count of one": (lambda folder: folder, ["--count=1"], "--count"),
    "unknown device": (lambda folder: folder, ["--device=warp"], "--device"),
    "unknown option": (lambda folder: folder, ["--sedes=1"], "sedes"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_sentence(name: str, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    make, words, says = BAD[name]
    out = tmp_path / "ref.safetensors"
    usual = [f"--data={make(pictures)}", "--extractor=Pixels", f"--out={out}", "--device=cpu"]
    assert fastgen("stats", *usual, *words) == 2
    err = capfd.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("fastgen")]
    assert says in line and line.endswith((".", "?")) and "Traceback" not in err
    assert not out.exists()


def test_missing_options(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    assert fastgen("stats", f"--data={tmp_path}", "--out=x.safetensors") == 2
    assert "extractor" in capfd.readouterr().err
    assert yaml.safe_load(DIGITS.read_text())["data"]["class_path"] == "Digits"
