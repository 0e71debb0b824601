"""Protocols are configs that are merged with a run's; averages come from the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import EMA, ROOT, digits, fastgen, last, load, trainer, write

PROTOCOLS = sorted((ROOT / "configs" / "evaluation").glob("*.yaml"))
WANTED = {"Count", "Prompts", "Resize", "Extractor", "Reference"}


def test_all_are_there():
    names = [
        "cifar10-50k",
        "coco-10k",
        "coco2014-30k",
        "coco2017-5k",
        "hpsv2",
        "imagenet256-50k",
        "imagenet64-50k",
        "mjhq-30k",
    ]
    assert [path.stem for path in PROTOCOLS] == names


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_merges_with_a_run(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write(tmp_path / "run.yaml", digits(tmp_path))
    assert fastgen("test", "--config", run, "--config", path, "--print_config") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    (evaluate,) = [c for c in printed["trainer"]["callbacks"] if c["class_path"].endswith("Evaluate")]
    assert evaluate["init_args"]["count"] == {"5k": 5000, "10k": 10_000, "30k": 30_000, "50k": 50_000}.get(
        path.stem.split("-")[-1], 3200
    )
    assert evaluate["init_args"]["suite"]["class_path"].startswith("fastgen.metrics.")
    written = yaml.safe_load(path.read_text())
    assert printed["data"]["class_path"].split(".")[-1] == written.get("data", {"class_path": "Digits"})["class_path"]
    assert printed["model"]["class_path"] == "fastgen.methods.SiD"


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_says_what_it_measures(path: Path):
    text = [line for line in path.read_text().splitlines() if line.startswith("#")]
    said = {line[2:].split(":")[0].rstrip("s") for line in text}
    assert {word.rstrip("s") for word in WANTED} <= said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    config = write(folder / "run.yaml", digits(folder, steps=3))
    assert fastgen("fit", "--config", config) == 0
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.rglob("metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def evaluate(reference: str | None = None) -> dict[str, Any]:
    suite = {
        "class_path": "ImageMetrics",
        "init_args": {"extractor": {"class_path": "DigitsClassifier"}, "reference": reference, "reference_count": 1437},
    }
    return {
        "class_path": "Evaluate",
        "init_args": {"suite": suite, "count": 60, "teacher": False, "teacher_once": False},
    }


def protocol(folder: Path, *callbacks: dict[str, Any]) -> Path:
    section = trainer(folder, -1, *callbacks, limit_test_batches=1)
    del section["max_steps"]
    return write(folder / "protocol.yaml", {"trainer": section})


def test_averages_of_the_checkpoint_are_used_without_their_callbacks(trained: Path, tmp_path: Path):
    reference = tmp_path / "digits.safetensors"
    words = ["--extractor=DigitsClassifier", f"--out={reference}", "--device=cpu"]
    assert fastgen("stats", f"--data={trained / 'run.yaml'}", *words, "--features") == 0
    assert load(last(trained))["fastgen"]["averages"] == ["ema"]
    values = []
    for name, callbacks, command in (
        ("with", [EMA, evaluate()], "test"),
        ("without", [evaluate(str(reference))], "test"),
        ("validate", [evaluate()], "validate"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        merged = protocol(folder, *callbacks)
        config = ["--config", trained / "run.yaml", "--config", merged, "--trainer.limit_val_batches=1"]
        assert fastgen(command, *config, f"--ckpt_path={last(trained)}") == 0
        (row,) = rows(folder)
        assert row["role"] == "average" and row["count"] == 60
        values.append(row["values"])
    assert values[0] == pytest.approx(values[1], rel=1e-5, abs=1e-5)
    assert values[0] == values[2]


def test_a_wrong_reference_is_one_sentence(trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    reference = tmp_path / "digits.safetensors"
    words = ["--extractor=Pixels", "--extractor.channels=1", f"--out={reference}", "--device=cpu"]
    assert fastgen("stats", f"--data={trained / 'run.yaml'}", *words) == 0
    merged = protocol(tmp_path, evaluate(str(reference)))
    config = ["--config", trained / "run.yaml", "--config", merged]
    assert fastgen("test", *config, f"--ckpt_path={last(trained)}") == 2
    err = capfd.readouterr().err
    assert "was made by plumbing_pixels/" in err and "Traceback" not in err
