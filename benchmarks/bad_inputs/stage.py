"""Good files of every kind, of which bad ones are made: a trained run, its pairs, a reference, results of judges."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

EDM = {"class_path": "EDM"}
UNET = {"class_path": "UNet", "init_args": {"process": EDM, "width": 8, "num_classes": 10}}
EXTRACTOR = {"class_path": "DigitsClassifier"}
PICTURES = {
    "root": "pictures",
    "resolution": 8,
    "color": "grey",
    "resize": False,
    "held_out_fraction": 0.0,
    "batch_size": 6,
}
EMA = {"class_path": "EMA", "init_args": {"rule": {"class_path": "ConstantEMA", "init_args": {"decay": 0.9}}}}


def digits() -> dict[str, Any]:
    """A small run of images with labels, in the current folder."""
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": ".", "name": "runs"}}
    return {
        "threads": 1,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 2,
            "logger": logger,
            "enable_model_summary": False,
            "callbacks": [EMA, {"class_path": "fastgen.callbacks.Checkpoint", "init_args": {"every_n_steps": 2}}],
        },
        "model": {"class_path": "SiD", "init_args": {"teacher": UNET}},
        "data": {"class_path": "Digits", "init_args": {"batch_size": 8}},
    }


def evaluated(reference: str) -> dict[str, Any]:
    """The run with an evaluation against a reference in a file."""
    config = json.loads(json.dumps(digits()))
    suite = {"class_path": "ImageMetrics", "init_args": {"extractor": EXTRACTOR, "reference": reference}}
    options = {"suite": suite, "count": 8, "batch_size": 8, "teacher": False, "teacher_once": False}
    config["trainer"]["callbacks"].append({"class_path": "Evaluate", "init_args": options})
    return config


def points() -> dict[str, Any]:
    """The run on points, whose networks cost next to nothing."""
    config = json.loads(json.dumps(digits()))
    mlp = {"class_path": "MLP", "init_args": {"process": EDM, "width": 8, "depth": 1}}
    ring = {"class_path": "RingMixture", "init_args": {"process": EDM}}
    config["model"]["init_args"] = {"teacher": ring, "student": mlp, "critic": mlp}
    config["data"] = {"class_path": "Mixture", "init_args": {"distribution": ring, "batch_size": 8}}
    return config


def with_data(kind: str, **options: Any) -> dict[str, Any]:
    """A run that trains its teacher on other data, as no method is needed to read them."""
    config = json.loads(json.dumps(digits()))
    config["trainer"]["callbacks"] = []
    config["data"] = {"class_path": kind, "init_args": {"batch_size": 2} | options}
    return config


def with_weights() -> dict[str, Any]:
    """A run whose teacher's weights lie in a file."""
    config = json.loads(json.dumps(digits()))
    config["model"]["init_args"]["teacher"]["init_args"]["weights"] = "weights.safetensors"
    return config


def make_stage(folder: Path, main: Callable[[list[str]], int]) -> Path:
    """Fill ``folder``; ``main`` is the command line."""
    folder.mkdir(parents=True)
    for name, config in (
        ("fit", digits()),
        ("with_safetensors", evaluated("reference.safetensors")),
        ("with_npz", evaluated("reference.npz")),
        ("with_weights", with_weights()),
        ("with_pairs", with_data("Pairs", path="pairs", held_out_count=4)),
        (
            "with_pictures",
            with_data(
                "ImageFolder",
                root="pictures",
                resolution=8,
                color="grey",
                resize=False,
                held_out_fraction=0.0,
                batch_size=6,
            ),
        ),
        ("with_prompts", with_data("Prompts", path="prompts.txt")),
    ):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    pictures(folder / "pictures")
    texts(folder)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        good(main, ["fit", "--config", "fit.yaml"])
        run = Path("runs/version_0")
        shutil.copy(run / "checkpoints" / "last.ckpt", "last.ckpt")
        shutil.copy(run / "checkpoints" / "student.safetensors", "weights.safetensors")
        shutil.rmtree("runs")
        good(main, ["pairs", "--ckpt", "last.ckpt", "--role", "average", "--count", "16", "--shard-size", "8"])
        words = ["stats", "--data", "fit.yaml", "--extractor", "DigitsClassifier", "--out", "reference.safetensors"]
        good(main, [*words, "--count", "64", "--features"])
    from fastgen.metrics.samples.reference import read_reference

    reference = read_reference(folder / "reference.safetensors")
    np.savez(folder / "reference.npz", mu=reference.mean.numpy(), sigma=reference.cov.numpy())
    return folder


def good(main: Callable[[list[str]], int], words: Sequence[str]) -> None:
    """Run a command that must end well."""
    if code := main(list(words)):
        raise RuntimeError(f"fastgen {' '.join(words)} ended with {code}, so there is nothing to damage")


def pictures(folder: Path) -> None:
    """A few pictures of 8 x 8 pixels."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")


def texts(folder: Path) -> None:
    """Prompts, results of judges, and a run folder."""
    prompts = ["a fox, red", "a cat", "two dogs"]
    files = {
        "prompts.txt": "\n".join(prompts),
        "prompts.jsonl": "\n".join(json.dumps({"text": prompt}) for prompt in prompts),
        "prompts.csv": "text\n" + "\n".join(f'"{prompt}"' for prompt in prompts),
        "prompts.tsv": "text\n" + "\n".join(prompts),
        "geneval.jsonl": "\n".join(json.dumps({"tag": "colors", "include": [], "prompt": p}) for p in prompts),
        "dpg.csv": "item_id,text\n" + "\n".join(f'{i},"{prompt}"' for i, prompt in enumerate(prompts)),
        "results.jsonl": "\n".join(json.dumps({"tag": "colors", "correct": True, "prompt": p}) for p in prompts),
        "results.txt": "a.png, 1.0, 0.5, 0.75\nDPG-Bench score: 75.0",
        "vbench.json": json.dumps({"color": [0.5, []]}),
        "hpsv3.json": json.dumps([1.0, 3.0]),
        "vqascore.json": json.dumps([[0.5], [0.75]]),
    }
    for name, text in files.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(digits()))
    row = {
        "student_updates": 10,
        "training_seconds": 3.5,
        "role": "average",
        "steps": 1,
        "nfe": 1,
        "count": 64,
        "fingerprint": "digits",
        "values": {"frechet": 3.0, "recall": 0.5},
        "ratio_to_teacher": {},
    }
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"student_updates": 20}) + "\n")
    speed = {"student_updates": 20, "training_seconds": 7.0, "samples_per_second": 9.0, "device": "cpu", "processes": 1}
    (run / "throughput.json").write_text(json.dumps(speed))
    (run / "health.jsonl").write_text(json.dumps({"student_updates": 5, "kind": "nan", "sentence": "it was"}) + "\n")
