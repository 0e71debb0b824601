"""Runs keep to their own folders, go on properly in them, and start from the weights of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import EMA, RING, checkpoint, fastgen, last, load, mixture, trainer, write
from safetensors.torch import load_file

from fastgen.callbacks.run_folder import forget_after, next_version
from fastgen.report.run import find_run

MEASURE = {
    "class_path": "Evaluate",
    "init_args": {
        "suite": {"class_path": "MixtureMetrics", "init_args": {"distribution": RING}},
        "count": 16,
        "teacher_once": False,
    },
}


def config(folder: Path, steps: int = 2, version: int | None = None, logger: bool = True, **more: Any) -> Path:
    found = mixture(folder, steps=steps, batch_size=8)
    found["trainer"] = trainer(folder, steps, EMA, checkpoint(2, **more), MEASURE)
    found["trainer"]["logger"]["init_args"]["version"] = version
    if not logger:
        found["trainer"] |= {"logger": False, "default_root_dir": str(folder)}
    folder.mkdir(exist_ok=True)
    return write(folder / "config.yaml", found)


def rows(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(row["role"], row["student_updates"]) for row in map(json.loads, lines)]


def sentence(capfd: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fastgen: ")]
    return line


def test_without_a_logger_runs_are_numbered_and_a_config_of_the_user_stays(tmp_path: Path):
    file = config(tmp_path, logger=False)
    before = file.read_text()
    assert fastgen("fit", "--config", file) == 0
    run = tmp_path / "fastgen_runs" / "version_0"
    assert fastgen("predict", "--config", file, "--ckpt_path", run / "checkpoints" / "last.ckpt") == 0
    assert file.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "fastgen_runs"]
    assert next_version(tmp_path).name == "version_2"
    assert find_run(tmp_path / "fastgen_runs") == run  # not the predict
    assert find_run(tmp_path / "fastgen_runs" / "version_1").name == "version_1"  # unless it is asked for


NONSENSE: dict[str, Any] = {
    "purge_step": 0.5,
    "filename_suffix": 3,
    "max_queue": "x",
    "flush_secs": "x",
    "version": -1,
    "comment": {},
}
"""Arguments of the TensorBoardLogger, most of which it hands on unseen to a library that opens its file late."""


@pytest.mark.parametrize("name", NONSENSE)
def test_loggers_are_tried_before_training(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    file = config(tmp_path)
    content = yaml.safe_load(file.read_text())
    arguments = {"save_dir": str(tmp_path), name: NONSENSE[name]}
    content["trainer"]["logger"] = {"class_path": "TensorBoardLogger", "init_args": arguments}
    assert fastgen("fit", "--config", write(file, content)) == 2
    assert "trainer.logger (TensorBoardLogger)" in sentence(capfd)


def test_loggers_are_tried_before_measuring(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    file = config(tmp_path)
    assert fastgen("fit", "--config", file) == 0
    content = yaml.safe_load(file.read_text())
    for arguments, says in (
        (
            {"save_dir": str(tmp_path), "purge_step": 0.5},
            "trainer.logger (TensorBoardLogger): purge_step must be an integer",
        ),
        ({"save_dir": "/proc/none"}, "'/proc/none' cannot be made there"),
    ):
        content["trainer"]["logger"] = {"class_path": "TensorBoardLogger", "init_args": arguments}
        last = next(tmp_path.rglob("last.ckpt"))
        capfd.readouterr()
        assert fastgen("validate", "--config", write(file, content), "--ckpt_path", last) == 2
        assert says in sentence(capfd)


def test_one_folder_holds_one_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    run = tmp_path / "run" / "version_0"
    file = config(tmp_path, version=0)
    assert fastgen("fit", "--config", file) == 0
    first = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capfd.readouterr()
    assert fastgen("fit", "--config", file) == 2
    assert "holds another run" in sentence(capfd)
    elsewhere = config(tmp_path / "b", dirpath=str(run / "checkpoints"))
    assert fastgen("fit", "--config", elsewhere) == 2
    assert "holds another run" in sentence(capfd)
    assert first == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    # The same run goes on: what comes after its checkpoint is made once more.
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"role": "average", "student_updates": 3, "values": {}}) + '\n{"cut')
    assert fastgen("fit", "--config", file, "--trainer.max_steps=4", "--ckpt_path", last(tmp_path)) == 0
    assert rows(run) == [("teacher", 2), ("average", 2), ("teacher", 4), ("average", 4)]
    assert fastgen("validate", "--config", file, "--ckpt_path", last(tmp_path)) == 0
    assert "max_steps: 4" in (run / "config.yaml").read_text()


def test_a_run_killed_after_its_last_checkpoint_still_ends(tmp_path: Path):
    run = tmp_path / "run" / "version_0"
    file = config(tmp_path, version=0)
    assert fastgen("fit", "--config", file) == 0
    weights = run / "checkpoints" / "student.safetensors"
    whole = load_file(weights)
    before = load(last(tmp_path))
    weights.unlink()
    (run / "metrics.jsonl").unlink()
    half = [run / ".metrics.jsonl-x.unfinished.jsonl", run / "checkpoints" / ".last.ckpt-x.unfinished.ckpt"]
    for path in half:
        path.write_text("half")
    assert fastgen("fit", "--config", file, "--ckpt_path", last(tmp_path)) == 0
    assert not any(path.exists() for path in half)
    again = load_file(weights)
    assert again.keys() == whole.keys() and all(torch.equal(again[name], value) for name, value in whole.items())
    assert ("average", 2) in rows(run)
    after = load(last(tmp_path))
    assert (
        after["global_step"] == 2
        and after["fastgen"]["digests"]["optimizer_states"] == (before["fastgen"]["digests"]["optimizer_states"])
    )
    half[1].write_text("half")  # a run that goes on in a new folder tidies up where it comes from
    assert fastgen("fit", "--config", config(tmp_path), "--ckpt_path", last(tmp_path)) == 0
    assert not half[1].exists() and (tmp_path / "run" / "version_1").exists()


def test_a_new_run_starts_from_weights_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert fastgen("fit", "--config", config(tmp_path / "old", 3)) == 0
    old = last(tmp_path / "old")
    new = config(tmp_path / "new", 1)
    rates = [f"--model.init_args.{role}_optimizer.init_args.lr=0.0" for role in ("student", "critic")]
    assert fastgen("fit", "--config", new, "--init_from", old, *rates) == 0
    first, second = load(old), load(last(tmp_path / "new"))
    assert second["global_step"] == 1 and second["Mixture"]["samples_seen"] < first["Mixture"]["samples_seen"]
    for name, value in first["state_dict"].items():
        if name.startswith(("student.", "critic.")):
            assert torch.equal(value, second["state_dict"][name]), name
    capfd.readouterr()
    assert fastgen("fit", "--config", new, "--init_from", old, "--ckpt_path", old) == 2
    assert "--init_from starts a new run and --ckpt_path goes on with one" in sentence(capfd)
    assert fastgen("fit", "--config", new, "--init_from", old, "--model.init_args.student.init_args.width=8") == 2
    assert "its student does not fit this one" in sentence(capfd)
    saved = load(old)
    for name in [name for name in saved["state_dict"] if name.startswith(("critic.", "averages."))]:
        del saved["state_dict"][name]
    saved["fastgen"] |= {"format": 1, "averages": []}
    torch.save(saved, tmp_path / "student.ckpt")
    assert fastgen("fit", "--config", new, "--init_from", tmp_path / "student.ckpt", *rates) == 0
    assert "it has no critic, which begins as in any new run" in sentence(capfd)
    third = load(max((tmp_path / "new").rglob("last.ckpt")))["state_dict"]
    names = [name.removeprefix("student.") for name in third if name.startswith("student.")]
    assert all(torch.equal(third[f"student.{name}"], third[f"averages.ema.{name}"]) for name in names)


def test_lines_about_later_updates_are_forgotten(tmp_path: Path):
    path = tmp_path / "health.jsonl"
    lines = [json.dumps({"student_updates": step}) + "\n" for step in (1, 2, 3)]
    path.write_text("".join(lines) + '{"student_up')
    forget_after(path, 2)
    assert path.read_text() == "".join(lines[:2])
    forget_after(tmp_path / "missing.jsonl", 2)
