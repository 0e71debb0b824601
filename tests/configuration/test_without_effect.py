"""Options that do nothing in a combination are said when a run begins; those that would fail later are refused then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import checkpoint, fastgen, mixture, write
from denoisers.tiny_sd import write_tiny_pipeline
from toys import FreeData, ToyData, build, network

from fastgen.callbacks import EMA, Checkpoint, Evaluate, Health, SampleGrid
from fastgen.callbacks.beginning import Beginning
from fastgen.conditions import Guidance
from fastgen.denoisers.diffusers.sd import StableDiffusion
from fastgen.denoisers.networks.mlp import MLP
from fastgen.denoisers.wrappers.lora import LoRA
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.errors import UserError
from fastgen.extras import GAN, DigitLogProbability, DistributionMatching, Reward
from fastgen.methods import DMD2, ECT, SCM, Distiller, MeanFlow, OptimalSteps, PhasedDMD, SiD
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.methods.flow_maps.velocity import TeacherVelocity
from fastgen.processes import EDM
from fastgen.sampling.samplers import RenoiseSampler
from fastgen.sampling.solvers import Heun


class Unconditional(FreeData):
    """Samples without labels."""

    num_classes = None  # type: ignore[assignment]


def said(method: Distiller, *callbacks: Any, data: Any = None, **options: Any) -> list[str]:
    """What is said before a run of 10 updates."""
    method.configure_model()
    trainer = {
        "max_steps": 10,
        "datamodule": data or ToyData(),
        "callbacks": list(callbacks),
        "val_check_interval": 1.0,
        "limit_val_batches": 1.0,
        "limit_train_batches": 1.0,
    }
    return list(Beginning().sentences(SimpleNamespace(**trainer | options), method))  # type: ignore[arg-type]


def one(lines: list[str]) -> str:
    (line,) = lines
    return line


def test_what_is_in_order_says_nothing():
    extras = [GAN(start=9), Reward(DigitLogProbability, weight=0.1)]
    callbacks = [
        EMA(start_step=9),
        Health(every_n_steps=10),
        Checkpoint(monitor="eval/frechet"),
        Checkpoint(monitor="student/match"),
        Evaluate.__new__(Evaluate),
        SampleGrid(every_n_steps=500),  # the last one is made at the end
    ]
    guidance = Guidance(teacher=3.0, critic_training=0.0, condition_dropout=0.1)
    assert said(build(DMD2, extras=extras, guidance=guidance, solver=Heun(guidance=2.0)), *callbacks) == []
    assert said(build(MeanFlow, guidance=TeacherGuidance(2.0), condition_dropout=0.1, velocity=TeacherVelocity())) == []
    assert said(build(DMD2), data=Unconditional()) == []
    assert said(build(DMD2), EMA(start_step=99), Health(every_n_steps=99), max_steps=-1) == []


@pytest.mark.parametrize(
    ("callback", "options", "parts"),
    [
        (EMA(name="late", start_step=10), {}, ["'late'", "update 10", "EMA.start_step"]),
        (Health(every_n_steps=11), {}, ["Health.every_n_steps", "ends at 10"]),
        (Checkpoint(monitor="eval/frechet"), {}, ["'eval/frechet'", "Evaluate"]),
        (Checkpoint(monitor="val/student/match"), {}, ["'val/student/match'", "val_check_interval"]),
        (Checkpoint(monitor="val/student/match"), {"val_check_interval": 5, "limit_val_batches": 0}, ["nothing here"]),
    ],
)
def test_callbacks(callback: Any, options: dict[str, Any], parts: list[str]):
    line = one(said(build(SiD), callback, **options))
    assert all(part in line for part in parts), line


def test_a_monitor_of_losses_that_are_measured():
    for options in ({"val_check_interval": 5}, {"limit_train_batches": 4}):
        assert said(build(SiD), Checkpoint(monitor="val/student/match"), **options) == []


@pytest.mark.parametrize(
    "extra", [GAN(weight=0.0), DistributionMatching(weight=0.0), Reward(DigitLogProbability, weight=0.0)]
)
def test_extras_without_weight(extra: Any):
    line = one(said(build(SCM if isinstance(extra, DistributionMatching) else DMD2, extras=[extra])))
    assert type(extra).__name__ in line and "weight 0" in line


def test_extras_that_never_start():
    assert "starts at student update 10" in one(said(build(DMD2, extras=[GAN(start=10)])))


@pytest.mark.parametrize(
    ("method", "options", "name"),
    [
        (DMD2, {"guidance": Guidance(condition_dropout=0.1)}, "guidance.condition_dropout"),
        (DMD2, {"guidance": Guidance(critic=0.0)}, "guidance.critic"),
        (MeanFlow, {"guidance": TeacherGuidance(4.0), "velocity": TeacherVelocity()}, "guidance"),
        (MeanFlow, {"condition_dropout": 0.1, "velocity": TeacherVelocity()}, "condition_dropout"),
    ],
)
def test_conditions_that_there_are_not(method: type[Distiller], options: dict[str, Any], name: str):
    line = one(said(build(method, **options), data=Unconditional()))
    assert line.startswith(f"{name} ") and "no condition" in line


@pytest.mark.parametrize(
    ("method", "options", "name"),
    [
        (DMD2, {"guidance": Guidance(teacher=3.0)}, "guidance.teacher"),
        (SiD, {"guidance": Guidance(critic_training=3.0)}, "guidance.critic_training"),
        (ECT, {"solver": Heun(guidance=3.0)}, "solver.init_args.guidance"),
        (ECT, {"extras": [DistributionMatching(guidance=Guidance(critic=2.0))]}, "guidance.critic"),
    ],
)
def test_guidance_by_conditions_that_there_are_not(method: type[Distiller], options: dict[str, Any], name: str):
    """Otherwise it fails at the first grid, evaluation or turn that uses it."""
    with pytest.raises(UserError, match=rf"{name} is \d.*no condition"):
        said(build(method, **options), data=Unconditional())


def test_a_solver_guides_a_teacher_without_null_condition():
    plain = SiD(teacher=lambda: MLP(EDM(), width=8, depth=1), solver=Heun(guidance=3.0))
    with pytest.raises(UserError, match="not trained without a condition"):
        said(plain)


def test_flow_maps_say_that_their_teacher_teaches_nothing():
    assert "learns from the data" in one(said(build(MeanFlow)))
    assert said(build(MeanFlow, velocity=TeacherVelocity())) == []
    assert said(MeanFlow(student=lambda: MLP(EDM(), width=8, depth=1)), data=Unconditional()) == []


def test_turns_that_share_no_samples_are_refused():
    with pytest.raises(UserError, match="exclusive and reuse_rollout exclude each other"):
        UpdateSchedule(exclusive=True, reuse_rollout=True)


@pytest.mark.parametrize(
    "options", [{"extras": [Reward(DigitLogProbability)]}, {"gradient_clip": 1.0}, {"student_lr_scheduler": object()}]
)
def test_a_search_has_no_gradient(options: dict[str, Any]):
    with pytest.raises(UserError, match=f"follows no gradient; leave model.init_args.{next(iter(options))} out"):
        OptimalSteps(teacher=lambda: network(0), **options)


# ---------------------------------------------------------------------- what cannot be exported


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_pipeline(tmp_path_factory.mktemp("pipeline")))


FOUR = RenoiseSampler(times=[999.0, 749.0, 499.0, 249.0])
EXPORTS: dict[str, tuple[type[Distiller], dict[str, Any], str | None]] = {
    "whole": (SiD, {"sampler": FOUR}, None),
    "level": (SiD, {}, "steps of diffusers are whole numbers"),
    "LoRA": (SiD, {"student": LoRA(rank=2), "sampler": FOUR}, None),
    "times": (SiD, {"sampler": RenoiseSampler(times=[999.0, 800.0, 300.0])}, "schedulers of diffusers call at"),
    "second time": (MeanFlow, {"velocity": TeacherVelocity()}, "an input that no pipeline of diffusers has"),
    "guidance of a LoRA": (
        MeanFlow,
        {"student": LoRA(rank=2), "guidance": TeacherGuidance(2.0, embedded=True), "velocity": TeacherVelocity()},
        "an input that no pipeline of diffusers has",
    ),
    "experts": (PhasedDMD, {}, "no network of a diffusers pipeline"),
    "another network": (SiD, {"student": lambda: MLP(EDM(), width=8, depth=1)}, "MLP is no network of a diffusers"),
    "search": (OptimalSteps, {}, "cannot be exported with its times baked in"),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_student_that_cannot_be_exported(name: str, pipeline: str):
    kind, options, why = EXPORTS[name]
    method = kind(teacher=lambda: StableDiffusion(pipeline, resolution=16), **options)
    lines = said(method)
    if why is None:
        assert lines == []
    else:
        assert one(lines).startswith("'fastgen export' will refuse this student: ") and why in lines[0]


def test_notes_are_lines_of_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    config = mixture(tmp_path, steps=2)
    late = {"class_path": "EMA", "init_args": {"start_step": 2}}
    config["trainer"]["callbacks"] = [late, checkpoint(1)]
    assert fastgen("fit", "--config", write(tmp_path / "config.yaml", config)) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("note:")]
    assert line == (
        "note: the average 'ema' starts at student update 2, but the run ends at 2: it stays a copy of the student; "
        "lower EMA.start_step."
    )
