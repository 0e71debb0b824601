"""The command from end to end: help, configs, every subcommand, pictures."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import CONFIGS, EMA, environment, fastgen, load, write
from PIL import Image

from fastgen import __version__
from fastgen.denoisers.base import Denoiser

names = {"argvalues": CONFIGS, "ids": [path.stem for path in CONFIGS]}
LIGHT = """
import sys
from fastgen.__main__ import main
code = main(sys.argv[1:])
heavy = sorted(set(sys.modules) & {"torch", "lightning", "numpy", "yaml", "jsonargparse"})
sys.exit(code or (3 if heavy else 0))
"""


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["-h"], []])
def test_version_and_help_are_quick(words: list[str]):
    seconds = []
    for _ in range(3):  # the machine may be busy
        began = time.perf_counter()
        answer = subprocess.run(
            [sys.executable, "-c", LIGHT, *words], env=environment(), capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - began)
        assert answer.returncode == 0, answer.stderr
    assert min(seconds) < 1.0
    wanted = f"fastgen {__version__}\n" if words == ["--version"] else "usage: fastgen COMMAND"
    assert answer.stdout.startswith(wanted)


@pytest.fixture
def no_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Denoiser, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{type(self).__name__} was built")

    monkeypatch.setattr(Denoiser, "__init__", refuse)


@pytest.mark.parametrize("path", **names)
def test_print_config_resolves_and_builds_nothing(path: Path, no_networks: None, capsys: pytest.CaptureFixture[str]):
    assert fastgen("fit", "--config", path, "--print_config") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    written = yaml.safe_load(path.read_text())
    assert printed["trainer"]["max_steps"] == written["trainer"]["max_steps"]
    assert printed["model"]["class_path"].split(".")[-1] == written["model"]["class_path"]
    assert printed["model"]["init_args"]["max_bad_steps"] == 10  # defaults are resolved too


def test_subcommand_help_builds_nothing(no_networks: None, capsys: pytest.CaptureFixture[str]):
    assert fastgen("fit", "--help") == 0
    text = capsys.readouterr().out
    assert "--ckpt_path" in text and "--threads" in text and "weights_only" not in text
    assert fastgen("sample", "--help") == 0
    assert "--seeds" in capsys.readouterr().out


# ---------------------------------------------------------------------- every config, small

SMALL = {
    "Evaluate": {"count": 80, "batch_size": 40, "every_n_steps": 2},
    "SampleGrid": {"every_n_steps": 2, "seeds": 4},
    "Checkpoint": {"every_n_steps": 2},
    "Throughput": {"every_n_steps": 1},
    "Health": {"every_n_steps": 1},
}


def twin(path: Path, folder: Path) -> list[str]:
    """Words after the subcommand that make a config small: a second file for the callbacks, overrides for the rest."""
    callbacks = yaml.safe_load(path.read_text())["trainer"]["callbacks"]
    for entry in callbacks:
        small = SMALL.get(entry["class_path"].split(".")[-1], {})
        entry["init_args"] = entry.get("init_args", {}) | {
            name: value for name, value in small.items() if name != "every_n_steps" or name in entry.get("init_args", {})
        }
    second = write(folder / "small.yaml", {"trainer": {"callbacks": callbacks}})
    return [
        f"--config={path}",
        f"--config={second}",
        "--trainer.max_steps=3",
        f"--trainer.logger.init_args.save_dir={folder}",
        "--data.init_args.batch_size=8",
        "--data.init_args.predict_count=4",
    ]


def assert_twin_runs(path: Path, folder: Path, *more: str, prompts: tuple[str, ...] = ()) -> Path:
    """fit, validate, test, predict and sample, all through the command line; returns the folder of the fit."""
    words = [*twin(path, folder), *more]
    assert fastgen("fit", *words) == 0
    run = folder / path.stem / "version_0"
    ckpt = run / "checkpoints" / "last.ckpt"
    assert load(ckpt)["global_step"] == 3
    assert load(run / "checkpoints" / "step=000002.ckpt")["global_step"] == 2
    assert (run / "checkpoints" / "student.safetensors").exists()
    assert (run / "config.yaml").exists() and (run / "throughput.json").exists()
    for command in ("validate", "test"):
        assert fastgen(command, *words, "--trainer.limit_val_batches=2", f"--ckpt_path={ckpt}") == 0
    points = yaml.safe_load(path.read_text())["data"]["class_path"] == "Mixture"
    writer = {"class_path": "WriteSamples", "init_args": {"out": str(folder / "predicted")}}
    third = write(folder / "predict.yaml", {"trainer": {"callbacks": [EMA, writer]}})
    assert fastgen("predict", *words, f"--config={third}", f"--ckpt_path={ckpt}") == 0
    files = sorted(file.name for file in (folder / "predicted").iterdir())
    assert files == (["points.safetensors"] if points else [f"{i:06d}.png" for i in range(4)])
    assert fastgen("sample", f"--ckpt={ckpt}", "--seeds=0-3", f"--out={folder / 'grid.png'}", *prompts) == 0
    assert Image.open(folder / "grid.png").size[0] > 30
    return run


@pytest.mark.parametrize("path", [path for path in CONFIGS if "sd15" not in path.stem], ids=lambda path: path.stem)
def test_every_config_runs_small(path: Path, tmp_path: Path):
    run = assert_twin_runs(path, tmp_path)
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert '"student_updates": 3' in rows[-1]
