"""A run that is killed and resumed ends exactly where an undisturbed one does."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import assert_same_training, checkpoint, fastgen, load, mixture, start, write
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file

from fastgen.methods import Distiller

STEPS = 40
HERE = Path(__file__).parent
SUPPORT = HERE.parent / "support"


class Begun(Callback):
    """Leaves a file when the first batch begins, after every callback has prepared itself."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_start(self, trainer: Trainer, method: Distiller, batch: Any, batch_idx: int) -> None:
        self.path.touch()


def config(folder: Path, method: str, workers: int) -> Path:
    """A run with everything that has a state: EMA with warm-up, schedulers, a schedule of turns, real samples."""
    schedule = {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": STEPS}}
    turns = {"critic_updates": 2} | ({"reuse_rollout": True, "critic_first": False} if method == "DMD2" else {})
    found = mixture(folder, method, STEPS, 32, student_lr_scheduler=schedule, schedule=turns, micro_batches=2)
    folder.mkdir(exist_ok=True)
    found["data"]["init_args"] |= {"num_workers": workers, "with_x0": True}
    rule = {"class_path": "HalfLifeEMA", "init_args": {"half_life": 0.2, "ramp_up": 0.1}}
    found["trainer"]["callbacks"] = [
        {"class_path": "EMA", "init_args": {"rule": rule}},
        {"class_path": "test_resume.Begun", "init_args": {"path": str(folder / "begun")}},
        checkpoint(3, dirpath=str(folder / "checkpoints"), keep=None),
    ]
    return write(folder / "config.yaml", found)


def when_exists(path: Path, process: subprocess.Popen[str], timeout: float = 300.0) -> None:
    """Wait for a file that a running process writes."""
    end = time.monotonic() + timeout
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1][-2000:]
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def callbacks_of_this_file_are_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(HERE), str(SUPPORT), os.environ.get("PYTHONPATH")]))
    )
    monkeypatch.syspath_prepend(str(HERE))


FOREVER = "--trainer.max_steps=100000"


def assert_resumes_as_if_nothing_had_happened(folder: Path, file: Path, method: str, workers: int) -> None:
    """Resume the stopped run of ``file`` for a few updates and compare with a run that was never stopped."""
    stopped = folder / "stopped" / "checkpoints" / "last.ckpt"
    words = [f"--trainer.max_steps={load(stopped)['global_step'] + 8}"]
    assert fastgen("fit", "--config", file, *words, "--ckpt_path", stopped) == 0
    assert fastgen("fit", "--config", config(folder / "straight", method, workers), *words) == 0
    straight = folder / "straight" / "checkpoints" / "last.ckpt"
    assert_same_training(stopped, straight)
    assert load(stopped)["lr_schedulers"] == load(straight)["lr_schedulers"]
    weights = [load_file(path.with_name("student.safetensors")) for path in (stopped, straight)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


CASES = [
    ("SiD", 0),
    ("DMD2", 2),
    pytest.param("SiD", 2, marks=pytest.mark.slow),
    pytest.param("DMD2", 0, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "workers"), CASES)
def test_a_killed_run_resumes_bit_identically(method: str, workers: int, tmp_path: Path):
    file = config(tmp_path / "stopped", method, workers)
    kept = tmp_path / "stopped" / "checkpoints"
    process = start("fit", "--config", file, FOREVER)
    when_exists(kept / "step=000003.ckpt", process)
    time.sleep(0.3)  # anywhere: in a forward, an optimizer or a file
    process.kill()
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert load(kept / "last.ckpt")["global_step"] >= 3
    assert_resumes_as_if_nothing_had_happened(tmp_path, file, method, workers)


@pytest.mark.parametrize(("method", "workers"), [("DMD2", 0), pytest.param("SiD", 2, marks=pytest.mark.slow)])
def test_a_terminated_run_saves_first_and_resumes_bit_identically(method: str, workers: int, tmp_path: Path):
    file = config(tmp_path / "stopped", method, workers)
    kept = tmp_path / "stopped" / "checkpoints"
    process = start("fit", "--config", file, FOREVER, "--trainer.callbacks.init_args.every_n_steps=1000000")
    when_exists(tmp_path / "stopped" / "begun", process)
    assert not kept.exists() or not list(kept.glob("*.ckpt"))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, err[-2000:]
    assert "--ckpt_path" in err and "Traceback" not in err
    assert sorted(path.name for path in kept.iterdir()) == ["last.ckpt"]
    assert_resumes_as_if_nothing_had_happened(tmp_path, file, method, workers)


def test_a_finished_run_goes_on_bit_identically(tmp_path: Path):
    """Two runs of 5 and 5 updates through ``--ckpt_path`` are one of 10."""
    file = config(tmp_path / "stopped", "SiD", 0)
    assert fastgen("fit", "--config", file, "--trainer.max_steps=5") == 0
    assert_resumes_as_if_nothing_had_happened(tmp_path, file, "SiD", 0)
