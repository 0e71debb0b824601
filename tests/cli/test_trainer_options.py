"""Every option of Lightning's trainer does what it says, or is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import (
    MLP,
    RING,
    assert_same_training,
    checkpoint,
    fastgen,
    last,
    load,
    mixture,
    trainer,
    unshared,
    write,
)
from lightning.pytorch import Callback, Trainer

from fastgen.methods import Distiller

HERE = "test_trainer_options"


class Seen(Callback):
    """Writes the numbers of the samples of every training batch, a line each, and how many validations there were."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def write(self, name: str, line: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write(line + "\n")

    def on_train_batch_start(self, trainer: Trainer, method: Distiller, batch: Any, batch_idx: int) -> None:
        self.write("seen.txt", " ".join(str(int(n)) for n in batch["index"]))

    def on_validation_end(self, trainer: Trainer, method: Distiller) -> None:
        self.write("validated.txt", str(int(method.iteration)))


def config(folder: Path, **options: Any) -> Path:
    """Six updates on eight samples each, unless ``options`` of the trainer say otherwise; ``None`` takes one away."""
    content = mixture(folder, batch_size=8)
    content["data"]["init_args"] |= {"with_x0": True, "held_out_count": 16}
    watch = {"class_path": f"{HERE}.Seen", "init_args": {"folder": str(folder)}}
    section = trainer(folder, 6, watch, checkpoint(1), **options)
    content["trainer"] = {name: value for name, value in section.items() if value is not None}
    return write(folder / "config.yaml", content)


def lines(folder: Path, name: str) -> list[str]:
    file = folder / name
    return file.read_text().splitlines() if file.exists() else []


def updates(folder: Path) -> int:
    return load(last(folder))["global_step"]


# ---------------------------------------------------------------------- what works

WORKS: dict[str, tuple[dict[str, Any], int]] = {
    "max_epochs with limit_train_batches": ({"max_steps": None, "max_epochs": 2, "limit_train_batches": 2}, 4),
    "limit_train_batches": ({"limit_train_batches": 4}, 6),
    "the first end counts": ({"max_epochs": 1, "limit_train_batches": 2}, 2),
    "max_time alone": ({"max_steps": 2, "max_time": "00:01:00:00"}, 2),
    "reload_dataloaders_every_n_epochs": ({"limit_train_batches": 2, "reload_dataloaders_every_n_epochs": 1}, 6),
    "min_steps": ({"min_steps": 2}, 6),
    "no validation": ({"limit_val_batches": 0, "val_check_interval": 2}, 6),
    "switches": (
        {
            "benchmark": True,
            "detect_anomaly": True,
            "deterministic": True,
            "enable_progress_bar": False,
            "inference_mode": False,
            "log_every_n_steps": 0,
            "max_steps": 2,
            "num_sanity_val_steps": 1,
            "profiler": "simple",
            "sync_batchnorm": True,
            "use_distributed_sampler": True,
        },
        2,
    ),
    "Lightning's own checkpoints": ({"enable_checkpointing": True, "max_steps": 1}, 1),
    "double precision": ({"precision": "64-true", "max_steps": 1}, 1),
    "old name of a precision": ({"precision": 32, "max_steps": 1}, 1),
    "bf16-true": ({"precision": "bf16-true", "max_steps": 1}, 1),
}


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_anomaly_enabled(False)
    torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize("name", WORKS)
def test_works(name: str, tmp_path: Path):
    options, expected = WORKS[name]
    assert fastgen("fit", "--config", config(tmp_path, **options)) == 0
    assert updates(tmp_path) == expected
    numbers = [int(n) for line in lines(tmp_path, "seen.txt") for n in line.split()]
    assert numbers == list(range(8 * expected)), "every sample once"


def test_validation_by_batches_and_by_epochs(tmp_path: Path):
    for name, options, at in (
        ("batches", {"val_check_interval": 2}, ["2", "4", "6"]),
        ("epochs", {"limit_train_batches": 2, "check_val_every_n_epoch": 3}, ["6"]),
        ("across epochs", {"limit_train_batches": 2, "val_check_interval": 3, "check_val_every_n_epoch": "null"}, "36"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        path = config(folder, **options)
        path.write_text(path.read_text().replace("'null'", "null"))
        assert fastgen("fit", "--config", path) == 0
        assert lines(folder, "validated.txt") == list(at), name


@pytest.mark.parametrize("stop", [2, 3])
def test_epochs_resume_within_and_between(stop: int, tmp_path: Path):
    """Epochs of three batches, stopped after two or three of six."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    epochs = {"limit_train_batches": 3, "max_epochs": 2, "max_steps": None}
    assert fastgen("fit", "--config", config(whole, **epochs)) == 0
    path = config(parts, **epochs)
    assert fastgen("fit", "--config", path, f"--trainer.max_steps={stop}") == 0
    assert fastgen("fit", "--config", path, "--ckpt_path", last(parts)) == 0
    assert lines(whole, "seen.txt") == lines(parts, "seen.txt")
    assert_same_training(last(whole), last(parts, version=1))


# ---------------------------------------------------------------------- what is refused

REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an epoch without an end": ({"max_steps": None, "max_epochs": 3}, ["max_steps", "limit_train_batches"]),
    "no end at all": ({"max_steps": None}, ["max_steps"]),
    "no epochs": ({"max_epochs": 0}, ["max_epochs"]),
    "no steps": ({"max_steps": 0}, ["max_steps"]),
    "no batches": ({"limit_train_batches": 0}, ["limit_train_batches"]),
    "a share of an endless epoch": ({"limit_train_batches": 0.5}, ["limit_train_batches", "number"]),
    "negative batches": ({"limit_train_batches": -2}, ["limit_train_batches"]),
    "no time": ({"max_time": "00:00:00:00"}, ["max_time"]),
    "time without a form": ({"max_time": "soon"}, ["max_time", "days:hours"]),
    "validation at a share of an endless epoch": ({"val_check_interval": 0.5}, ["val_check_interval", "batches"]),
    "validation never": ({"val_check_interval": 0}, ["val_check_interval"]),
    "validation beyond the epoch": (
        {"val_check_interval": 9, "limit_train_batches": 3},
        ["val_check_interval", "check_val_every_n_epoch"],
    ),
    "validation by epochs that never end": ({"check_val_every_n_epoch": 2}, ["check_val_every_n_epoch"]),
    "new loaders by epochs that never end": (
        {"reload_dataloaders_every_n_epochs": 2},
        ["reload_dataloaders_every_n_epochs", "limit_train_batches"],
    ),
    "more steps than any run has": ({"max_steps": 10**30}, ["max_steps", "2147483647"]),
    "a count beyond all measure": ({"log_every_n_steps": 10**30}, ["log_every_n_steps", "2147483647"]),
    "fewer epochs than none": ({"min_epochs": -1}, ["min_epochs"]),
    "overfitting": ({"overfit_batches": 2}, ["overfit_batches"]),
    "a trial run": ({"fast_dev_run": True}, ["fast_dev_run", "max_steps"]),
    "a registry": ({"model_registry": "mine"}, ["model_registry", "student.safetensors"]),
    "barebones": ({"barebones": True}, ["barebones"]),
    "accumulation": ({"accumulate_grad_batches": 2}, ["accumulate_grad_batches", "micro_batches"]),
    "clipping": ({"gradient_clip_val": 1.0}, ["gradient_clip_val", "gradient_clip"]),
    "way of clipping": ({"gradient_clip_algorithm": "norm"}, ["gradient_clip_algorithm", "gradient_clip"]),
    "half precision": ({"precision": "16-mixed"}, ["precision", "bf16-mixed"]),
    "whole half precision": ({"precision": "16-true"}, ["precision", "bf16-mixed"]),
    "8-bit floats": ({"precision": "transformer-engine"}, ["transformer_engine"]),
}


def sentence(capfd: pytest.CaptureFixture[str], code: int) -> str:
    err = capfd.readouterr().err
    assert code == 2, err[-2000:]
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("fastgen")]
    return line


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    options, says = REFUSED[name]
    said = sentence(capfd, fastgen("fit", "--config", config(tmp_path, **options)))
    assert all(part in said for part in says), said
    assert not lines(tmp_path, "seen.txt")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_commands_measure_a_trained_student_and_something(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    path = config(tmp_path, max_steps=1)
    assert "--ckpt_path" in sentence(capfd, fastgen(command, "--config", path))
    assert fastgen("fit", "--config", path) == 0
    capfd.readouterr()
    limit = "limit_val_batches" if command == "validate" else f"limit_{command}_batches"
    words = ["--config", path, "--ckpt_path", last(tmp_path)]
    assert limit in sentence(capfd, fastgen(command, *words, f"--trainer.{limit}=0"))
    # Weights that the config names are a trained student, too.
    weights = last(tmp_path).with_name("student.safetensors")
    content = yaml.safe_load(path.read_text())
    content["model"]["init_args"]["student"]["init_args"]["weights"] = str(weights)
    content["trainer"]["callbacks"] = []
    assert fastgen(command, "--config", write(path, content)) == 0


def test_tests_are_made_on_the_test_split(tmp_path: Path):
    """Losses on held-out samples differ between the two splits, and a second measurement equals the first."""
    path = config(tmp_path, max_steps=1)
    content = yaml.safe_load(path.read_text())
    content["model"] = {"class_path": "ECT", "init_args": {"teacher": RING, "student": MLP}}
    assert fastgen("fit", "--config", write(path, unshared(content))) == 0
    found = []
    for command in ("validate", "test", "test"):
        assert fastgen(command, "--config", path, "--ckpt_path", last(tmp_path)) == 0
        rows = (tmp_path / "run" / f"version_{len(found) + 1}" / "metrics.csv").read_text().splitlines()
        found.append(dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))["val/student/consistency"])
    assert found[0] != found[1] == found[2]


def test_a_run_keeps_something_if_the_config_names_no_callback(tmp_path: Path):
    path = config(tmp_path, max_steps=1)
    content = yaml.safe_load(path.read_text())
    content["trainer"]["callbacks"] = []
    assert fastgen("fit", "--config", write(path, content)) == 0
    assert updates(tmp_path) == 1


def test_a_finished_run_says_that_nothing_is_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = config(tmp_path, max_steps=2)
    assert fastgen("fit", "--config", path) == 0
    capfd.readouterr()
    with pytest.warns(UserWarning, match=r"2 student updates.*trainer.max_steps is 2.*nothing is left to train"):
        assert fastgen("fit", "--config", path, "--ckpt_path", last(tmp_path)) == 0
