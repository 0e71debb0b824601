"""A checkpoint that is not what was written is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import fastgen, last, load, mixture, write

from fastgen.callbacks import Checkpoint
from fastgen.checkpoints.reading import method_from_checkpoint
from fastgen.checkpoints.seals import seal
from fastgen.errors import UserError
from fastgen.storage.digests import digest_of

Change = Callable[[dict[str, Any]], Any]


def test_the_digest_covers_everything():
    def value() -> dict[str, Any]:
        half = torch.ones(3, dtype=torch.bfloat16)
        return {"a": {"x": torch.arange(6.0).view(2, 3), "half": half}, 3: [1, 2.0, None, "s", (True,)], "e": {}}

    def changed(change: Change) -> str:
        other = value()
        change(other)
        return digest_of(other)

    changes: list[Change] = [
        lambda v: v["a"]["x"].view(-1).view(torch.uint8)[5].bitwise_xor_(1),
        lambda v: v["a"].update(x=v["a"]["x"].view(3, 2)),
        lambda v: v["a"].update(x=v["a"]["x"].to(torch.int32)),
        lambda v: v["a"].update(half=v["a"]["half"].view(torch.float16)),
        lambda v: v["a"].update(y=v["a"].pop("x")),
        lambda v: v.update({"3": v.pop(3)}),
        lambda v: v.__setitem__(3, [1, 2, None, "s", (True,)]),
        lambda v: v.__setitem__(3, [1, 2.0, None, "s", [True]]),
        lambda v: v.__setitem__(3, [1, 2.0, None, "s"]),
        lambda v: v.__setitem__("e", []),
    ]
    assert digest_of(value()) == digest_of(value())
    assert len({digest_of(value()), *map(changed, changes)}) == len(changes) + 1
    scattered = value()
    scattered["a"]["x"] = scattered["a"]["x"].t().contiguous().t()
    assert digest_of(scattered) == digest_of(value())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The config and the checkpoint of a run of three updates."""
    folder = tmp_path_factory.mktemp("run")
    schedule = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2}}
    config = write(folder / "config.yaml", mixture(folder, steps=3, student_lr_scheduler=schedule))
    assert fastgen("fit", "--config", config) == 0
    return config, last(folder)


def flip(saved: dict[str, Any]) -> None:
    first = next(iter(saved["optimizer_states"][1]["state"].values()))["exp_avg"]
    first.view(-1).view(torch.uint8)[:3].bitwise_xor_(1)


CHANGES: dict[str, tuple[Change, str]] = {
    "bits of a state": (flip, "is damaged (its optimizers' states differ"),
    "bits of a weight": (lambda s: s["state_dict"]["student.stem.weight"][0, 0].add_(1e-3), "(its networks differ"),
    "format": (lambda s: s["fastgen"].update(format=99), "has the format 99"),
    "no format": (lambda s: s["fastgen"].pop("format"), "has the format None"),
    "a negative count": (lambda s: s["fastgen"].update(iteration=-5), "has no whole number of iterations"),
    "a count in words": (lambda s: s["fastgen"].update(iteration="x"), "has no whole number of iterations"),
    "no names of averages": (lambda s: s["fastgen"].update(averages="ema"), "has no list of the names of its averages"),
    "bits of a count": (
        lambda s: s["fastgen"].update(iteration=s["fastgen"]["iteration"] ^ 7),
        "is damaged (its counters and its configuration differ",
    ),
    "a learning rate": (
        lambda s: s["fastgen"]["configured"]["student"]["groups"][0].update(lr=0.5),
        "(its counters and its configuration differ",
    ),
    "a digest": (lambda s: s["fastgen"]["digests"].update(state_dict="0" * 64), "(its networks differ"),
    "no digests": (lambda s: s["fastgen"].pop("digests"), "lacks the digests"),
    "no networks": (lambda s: s.pop("state_dict"), "lacks state_dict"),
    "no optimizers": (lambda s: s.pop("optimizer_states"), "lacks its optimizers' states"),
    "one optimizer": (lambda s: s["optimizer_states"].pop(), "lacks the optimizer's state of 'critic'"),
    "an empty state": (lambda s: s["optimizer_states"].__setitem__(0, {}), "lacks the optimizer's state of 'student'"),
    "no schedule": (lambda s: s["lr_schedulers"].pop(), "lacks the learning-rate schedule's state of 'student'"),
    "no data": (lambda s: s.pop("Mixture"), "lacks its position in the data ('Mixture')"),
    "a callback": (lambda s: s["callbacks"].pop("EMA[ema]"), "lacks the state of the callback 'EMA[ema]'"),
    "no loops": (lambda s: s.pop("loops"), "lacks its counters of batches"),
    "other counts": (lambda s: s["callbacks"]["EMA[ema]"].update(samples_seen=1), "(its callbacks' states differ"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_missing_or_damaged_is_named(
    name: str, run: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    config, checkpoint = run
    change, says = CHANGES[name]
    saved = load(checkpoint)
    change(saved)
    torch.save(saved, tmp_path / "odd.ckpt")
    assert fastgen("fit", "--config", config, "--trainer.max_steps=4", "--ckpt_path", tmp_path / "odd.ckpt") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fastgen: ")]
    assert says in line and "odd.ckpt" in line


def of_kind(dtype: torch.dtype) -> Change:
    return lambda s: s["state_dict"].update({name: value.to(dtype) for name, value in s["state_dict"].items()})


def not_finite(saved: dict[str, Any]) -> None:
    saved["state_dict"]["averages.ema.stem.weight"][0, 0] = float("inf")


SEALED: dict[str, tuple[Change, str]] = {
    "complex weights": (of_kind(torch.complex64), "differ in name, shape or kind of number"),
    "whole weights": (of_kind(torch.int32), "differ in name, shape or kind of number"),
    "weights of a run that had diverged": (not_finite, "not finite, first 'averages.ema.stem.weight'"),
    "weights that are texts": (lambda s: s["state_dict"].update(x="y"), "holds no table of tensors"),
    "an average more": (lambda s: s["fastgen"]["averages"].append("other"), "about the average 'other'"),
    "an average less": (lambda s: s["fastgen"].update(averages=[]), "about the average 'ema'"),
    "another method's configuration": (
        lambda s: s["fastgen"]["recipe"].update(class_path="fastgen.methods.DMD2"),
        "holds the weights of fastgen.methods.score_identity.sid.SiD but the configuration of fastgen.methods.DMD2",
    ),
    "no configuration": (lambda s: s["fastgen"].update(recipe=3), "but the configuration of nothing"),
}
"""Checkpoints whose digests are right."""
RESUMED: dict[str, tuple[Change, str]] = {
    "an optimizer's state of another shape": (
        lambda s: next(iter(s["optimizer_states"][0]["state"].values())).update(exp_avg=torch.zeros(3)),
        "holds no state of these optimizers and schedules ('exp_avg' of weights",
    ),
    "an optimizer of nothing": (lambda s: s["fastgen"]["configured"]["student"].clear(), "no table of how its"),
    "a position in words": (lambda s: s["Mixture"].update(samples_seen="x"), "no state of the data"),
    "no position": (lambda s: s["Mixture"].clear(), "no state of the data"),
    "samples in words": (lambda s: s["callbacks"]["EMA[ema]"].update(samples_seen="x"), "no state of EMA"),
    "epochs in words": (lambda s: s.update(epoch="x"), "no whole number of epochs"),
    "fewer updates than none": (lambda s: s.update(global_step=-1), "no whole number of student updates"),
    "updates of nobody": (lambda s: s["fastgen"].update(updates=[1]), "no numbers of updates by role"),
    "skipped in words": (lambda s: s["fastgen"].update(bad_steps_total="x"), "no number of updates that were skipped"),
    "no version of Lightning": (lambda s: s.pop("pytorch-lightning_version"), "lacks pytorch-lightning_version"),
}
"""Checkpoints whose digests are right and that no run can go on from."""


@pytest.mark.parametrize("name", RESUMED)
def test_a_state_of_something_else_is_not_taken(
    name: str, run: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    config, checkpoint = run
    change, says = RESUMED[name]
    saved = load(checkpoint)
    change(saved)
    seal(saved)
    torch.save(saved, tmp_path / "odd.ckpt")
    assert fastgen("fit", "--config", config, "--trainer.max_steps=4", "--ckpt_path", tmp_path / "odd.ckpt") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fastgen: ")]
    assert says in line


@pytest.mark.parametrize("name", ["/precious", "../precious", "last.ckpt", "step=1.ckpt/../precious"])
def test_no_file_of_others_is_kept_and_deleted_later(name: str):
    with pytest.raises(UserError, match="no state of Checkpoint"):
        Checkpoint().load_state_dict({"best": None, "kept": ["step=000001.ckpt", name]})


THROUGHOUT = ("complex weights", "weights of a run that had diverged")
"""Those that are given to every command."""


@pytest.mark.parametrize("name", SEALED)
def test_what_contradicts_itself_is_refused(
    name: str, run: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    config, checkpoint = run
    change, says = SEALED[name]
    saved = load(checkpoint)
    change(saved)
    seal(saved)
    odd = tmp_path / "odd.ckpt"
    torch.save(saved, odd)
    with pytest.raises(UserError, match=re.escape(says)):
        method_from_checkpoint(odd)
    commands = {
        "fit": ["--trainer.max_steps=4", "--ckpt_path", odd],
        "validate": ["--ckpt_path", odd],
        "start": ["--init_from", odd],
    }
    for command, words in commands.items() if name in THROUGHOUT else list(commands.items())[:1]:
        assert fastgen("fit" if command == "start" else command, "--config", config, *words) == 2
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("fastgen: ")]
        assert says in line or (command == "start" and "its student does not fit" in line)


def test_a_file_with_a_flipped_bit_is_refused(
    run: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """In the bytes of a weight, and in the record that says what the tensors are."""
    _, checkpoint = run
    content = checkpoint.read_bytes()
    weight = load(checkpoint)["state_dict"]["student.stem.weight"].numpy().tobytes()
    for place in (content.index(weight), content.index(b"samples_seen")):
        damaged = bytearray(content)
        damaged[place] ^= 4
        (tmp_path / "odd.ckpt").write_bytes(damaged)
        assert fastgen("sample", "--ckpt", tmp_path / "odd.ckpt", "--out", tmp_path / "x.png") == 2
        assert "odd.ckpt" in capfd.readouterr().err
