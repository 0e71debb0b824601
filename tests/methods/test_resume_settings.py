"""A resume takes the state from the checkpoint and the hyper-parameters from the config, and says what differs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR, StepLR
from toys import StopAfter, ToyData, build, trainer

from fastgen.checkpoints.seals import seal
from fastgen.distiller.resume import differences
from fastgen.errors import UserError
from fastgen.methods import SiD
from fastgen.schedules import Cosine

HALF, END = 4, 7


def make(student: Any = None, schedule: Any = None, **more: Any) -> SiD:
    return build(
        SiD,
        student_optimizer=student or partial(Adam, lr=1e-3),
        critic_optimizer=partial(SGD, lr=1e-2, momentum=0.9),
        student_lr_scheduler=schedule,
        **more,
    )


def fit(method: SiD, count: int, *callbacks: Any, ckpt: Path | None = None) -> list[dict[str, Any]]:
    """The optimizers' states afterwards."""
    run = trainer(count, *callbacks)
    run.fit(method, ToyData(batch_size=4), ckpt_path=ckpt, weights_only=True)
    return [optimizer.state_dict() for optimizer in run.optimizers]


def half(folder: Path, *arguments: Any, **more: Any) -> Path:
    """A checkpoint of ``HALF`` iterations."""
    path = folder / "half.ckpt"
    fit(make(*arguments, **more), HALF, StopAfter(HALF, HALF, str(path)))
    return path


def group(states: list[dict[str, Any]], role: int = 0) -> dict[str, Any]:
    (found,) = states[role]["param_groups"]
    return found


def said(capsys: pytest.CaptureFixture[str]) -> set[str]:
    begin = "fastgen: resumed with "
    return {line.removeprefix(begin) for line in capsys.readouterr().err.splitlines() if line.startswith(begin)}


def test_an_optimizers_numbers_are_the_configs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = half(tmp_path)
    new = partial(Adam, lr=1e-6, betas=(0.5, 0.9), eps=1e-4, weight_decay=0.1)
    states = fit(make(new), END, ckpt=path)
    found = group(states)
    assert (found["lr"], found["betas"], found["eps"], found["weight_decay"]) == (1e-6, (0.5, 0.9), 1e-4, 0.1)
    assert group(states, 1)["lr"] == 1e-2
    straight = fit(make(), END)[0]["state"]
    assert all(entry["step"] == straight[number]["step"] for number, entry in states[0]["state"].items())
    assert said(capsys) == {
        "student lr 1e-06 (checkpoint: 0.001)",
        "student betas (0.5, 0.9) (checkpoint: (0.9, 0.999))",
        "student eps 0.0001 (checkpoint: 1e-08)",
        "student weight_decay 0.1 (checkpoint: 0)",
    }


def warm_up(optimizer: Any, updates: int = 2) -> SequentialLR:
    parts = [LinearLR(optimizer, 0.1, total_iters=updates), CosineAnnealingLR(optimizer, T_max=9)]
    return SequentialLR(optimizer, parts, milestones=[updates])


SCHEDULES = {
    "sequential": warm_up,
    "cosine": partial(CosineAnnealingLR, T_max=9),
    "one cycle": partial(OneCycleLR, max_lr=0.1, total_steps=40),
    "steps": partial(StepLR, step_size=2),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_nothing_changed_changes_no_bit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    schedule = SCHEDULES[name]
    path = half(tmp_path, None, schedule)
    straight, resumed = make(None, schedule), make(None, schedule)
    one, other = fit(straight, END), fit(resumed, END, ckpt=path)
    assert group(one) == group(other)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in straight.state_dict().items())
    assert said(capsys) == set()


CHANGES: dict[str, tuple[Any, Any, Any, set[str]]] = {
    "length": (
        partial(CosineAnnealingLR, T_max=9),
        None,
        partial(CosineAnnealingLR, T_max=20),
        {"student lr_scheduler T_max 20 (checkpoint: 9)"},
    ),
    "inner length": (
        warm_up,
        None,
        partial(warm_up, updates=6),
        {
            "student lr_scheduler schedulers.0.total_iters 6 (checkpoint: 2)",
            "student lr_scheduler milestones.0 6 (checkpoint: 2)",
        },
    ),
    "base": (warm_up, partial(Adam, lr=1e-2), warm_up, {"student lr 0.01 (checkpoint: 0.001)"}),
    "kind": (
        warm_up,
        None,
        partial(StepLR, step_size=1),
        {"student lr_scheduler StepLR (checkpoint: SequentialLR)"},
    ),
    "new": (None, None, partial(StepLR, step_size=1), {"student lr_scheduler StepLR (checkpoint: none)"}),
    "gone": (partial(StepLR, step_size=1), None, None, {"student lr_scheduler none (checkpoint: StepLR)"}),
    "momentum too": (
        partial(OneCycleLR, max_lr=0.1, total_steps=40),
        None,
        None,
        {"student lr_scheduler none (checkpoint: OneCycleLR)"},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_schedule_is_where_it_would_have_been(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before, optimizer, after, lines = CHANGES[name]
    path = half(tmp_path, None, before)
    states = fit(make(optimizer, after), END, ckpt=path)
    straight = fit(make(optimizer, after), END)
    assert group(states) == group(straight)
    assert said(capsys) == lines


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        (Cosine, set()),
        (partial(Cosine, warm_up=5, low=0.5), {"warm_up 5 (checkpoint: 0)", "low 0.5 (checkpoint: 0)"}),
        (partial(Cosine, length=9), {"length 9 (checkpoint: max_steps)"}),
    ],
)
def test_a_schedule_follows_the_length_of_the_resumed_run(
    after: Any, lines: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The first half was scheduled for ``END`` updates, the rest is for twice as many."""
    path = tmp_path / "half.ckpt"
    trainer(END, StopAfter(HALF, HALF, str(path)), max_steps=END).fit(make(None, Cosine), ToyData(batch_size=4))
    rates = []
    for ckpt in (path, None):
        run = trainer(2 * END, StopAfter(END, END, str(tmp_path / "end.ckpt")), max_steps=2 * END)
        run.fit(make(None, after), ToyData(batch_size=4), ckpt_path=ckpt, weights_only=True)
        rates.append(run.optimizers[0].param_groups[0]["lr"])
    assert rates[0] == rates[1] != 1e-3
    assert said(capsys) == {f"student lr_scheduler {line}" for line in lines}


def test_an_older_format_is_resumed_with_the_configs_numbers(tmp_path: Path):
    path = half(tmp_path, None, warm_up)
    saved = torch.load(path, weights_only=True)
    for name in ("digests", "configured", "roles", "updates", "settings", "callbacks", "data"):
        del saved["fastgen"][name]
    saved["fastgen"]["format"] = 1
    torch.save(saved, path)
    one, other = make(None, warm_up), make(None, warm_up)
    assert group(fit(one, END)) == group(fit(other, END, ckpt=path))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    assert group(fit(make(partial(Adam, lr=1e-6)), END, ckpt=path))["lr"] == 1e-6


def test_another_optimizer_is_refused(tmp_path: Path):
    path = half(tmp_path)
    with pytest.raises(UserError, match=r"state of Adam for the student, and the config asks for AdamW;.*--init_from"):
        fit(make(partial(AdamW, lr=1e-3)), END, ckpt=path)


def test_other_roles_are_refused(tmp_path: Path):
    path = half(tmp_path)
    saved = torch.load(path, weights_only=True)
    saved["fastgen"]["roles"].append("discriminator")
    seal(saved)
    torch.save(saved, path)
    with pytest.raises(UserError, match="trained student, critic, discriminator, and this config trains student, cri"):
        fit(make(), END, ckpt=path)


def test_other_settings_are_named():
    old = {"class_path": "SiD", "init_args": {"alpha": 1.0, "student_optimizer": {"lr": 1}, "times": [1, 2]}}
    new = {"class_path": "SiD", "init_args": {"alpha": 1.2, "student_optimizer": {"lr": 2}, "times": [1, 3]}}
    assert list(differences(new, old, "model")) == [
        "model.alpha 1.2 (checkpoint: 1)",
        "model.times.1 3 (checkpoint: 2)",
    ]
    assert list(differences({"class_path": "A", "init_args": {"x": 1}}, {"class_path": "B"}, "model.rule")) == [
        "model.rule A (checkpoint: B)"
    ]
