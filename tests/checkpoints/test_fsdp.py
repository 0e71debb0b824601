"""FSDP2 on two gloo processes equals one process, for two families, all weights or adapters."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import (
    EDM,
    FEWER,
    RING,
    ROOT,
    assert_same_training,
    checkpoint,
    digits,
    fastgen,
    in_pair,
    load,
    mixture,
    trained,
    trainer,
    unshared,
    write,
)
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sd3 import write_tiny_sd3
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FSDP = {"class_path": "fastgen.strategies.FSDP2"}
EMA = {"class_path": "EMA", "init_args": {"rule": {"class_path": "ConstantEMA", "init_args": {"decay": 0.5}}}}
GRID = {"class_path": "SampleGrid", "init_args": {"every_n_steps": 2, "seeds": 3}}
LORA = {"class_path": "LoRA", "init_args": {"rank": 4, "layers": ["*to_q", "*to_k", "*to_v", "*to_out.0"]}}
COPY = {"class_path": "CopyOfTeacher"}
UNIFORM = {"class_path": "UniformTime", "init_args": {"low": 0.2, "high": 0.8}}


def sgd(lr: float) -> dict[str, Any]:
    """Plain gradient descent, so that rounding errors of tiny gradients are not blown up."""
    return {"class_path": "torch.optim.SGD", "init_args": {"lr": lr, "momentum": 0.9}}


def sid_on_sd15(inputs: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """SiD differentiates through both scores."""
    model = {
        "teacher": {"class_path": "StableDiffusion", "init_args": {"pretrained": str(inputs / "sd15")}},
        "guidance": {"teacher": 2.0, "critic": 2.0, "critic_training": 2.0},
        "sampler": {"class_path": "RenoiseSampler", "init_args": {"times": [625.0]}},
        "critic_objective": {
            "class_path": "DenoisingLoss",
            "init_args": {"target": "noise", "weight": "UniformWeight"},
        },
    }
    data = {"class_path": "Prompts", "init_args": {"path": "asset:prompts_toy.txt"}}
    return {"class_path": "SiD", "init_args": model}, data


def dmd2_on_sd3(inputs: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """DMD2 with two steps and a discriminator inside the critic."""
    teacher = {"pretrained": str(inputs / "sd3"), "max_tokens": 16}
    model = {
        "teacher": {"class_path": "StableDiffusion3", "init_args": teacher},
        "guidance": {"teacher": 2.0},
        "sampler": {"class_path": "RenoiseSampler", "init_args": {"times": [1.0, 0.5]}},
        "critic_objective": {
            "class_path": "DenoisingLoss",
            "init_args": {"target": "velocity", "weight": "UniformWeight"},
        },
        "schedule": {"critic_updates": 1},
        "extras": [{"class_path": "GAN", "init_args": {"weight": 1.0, "discriminator_weight": 1.0, "time": UNIFORM}}],
    }
    data = {"class_path": "ImageFolder", "init_args": {"root": str(inputs / "images"), "resolution": 16}}
    data["init_args"] |= {"annotation": "sidecar", "held_out_fraction": 0.25}
    return {"class_path": "DMD2", "init_args": model}, data


PROBLEMS = {"sid_sd15": sid_on_sd15, "dmd2_sd3": dmd2_on_sd3}
RATES = {
    ("sid_sd15", False): (0.05, 0.05),
    ("sid_sd15", True): (0.02, 30.0),
    ("dmd2_sd3", False): (0.05, 0.05),
    ("dmd2_sd3", True): (1.0, 1.0),
}
"""Learning rates of student and critic, with and without adapters: both move by a hundred times the tolerance."""
WAYS = list(RATES)
CROSSED = "dmd2_sd3"


def config(inputs: Path, folder: Path, problem: str, adapters: bool, world: int, **more: Any) -> Path:
    """Four updates of a problem on ``world`` processes with a global batch of four."""
    folder.mkdir(parents=True)
    model, data = PROBLEMS[problem](inputs)
    student, critic = RATES[problem, adapters]
    model["init_args"] |= {
        "solver": {"class_path": "Euler", "init_args": {"steps": 2, "guidance": 2.0}},
        "renoise_time": UNIFORM,
        "critic_time": UNIFORM,
        "gradient_clip": 1.0,
        "student_optimizer": sgd(student),
        "critic_optimizer": sgd(critic),
    }
    if adapters:
        model["init_args"]["teacher"]["init_args"]["gradient_checkpointing"] = True
        model["init_args"] |= {"student": LORA, "critic": LORA}
    data["init_args"]["batch_size"] = 4 // world
    watch = {"class_path": "pair.Holdings", "init_args": {"folder": str(folder)}}
    callbacks = [EMA, GRID, checkpoint(2, dirpath=str(folder)), *([watch] if world > 1 else [])]
    settings = trainer(folder, 4, *callbacks, devices=world, **({"strategy": FSDP} if world > 1 else {}) | more)
    return write(folder / "config.yaml", unshared({"threads": 1, "trainer": settings, "model": model, "data": data}))


def points(folder: Path) -> Path:
    """SiD between points, with a sharded teacher, measured at the end."""
    folder.mkdir()
    network = {"class_path": "MLP", "init_args": {"process": EDM, "weights": "asset:teacher_mixture.safetensors"}}
    suite = {"class_path": "MixtureMetrics", "init_args": {"distribution": RING, "metrics": FEWER}}
    evaluate = {"class_path": "Evaluate", "init_args": {"suite": suite, "count": 301, "batch_size": 64}}
    problem = mixture(folder, steps=2, teacher=network, student=COPY, critic=COPY)
    problem["trainer"] |= {"devices": 2, "strategy": FSDP}
    problem["trainer"]["callbacks"] = [EMA, evaluate, checkpoint(dirpath=str(folder))]
    return write(folder / "config.yaml", problem)


def kept_target(folder: Path, world: int) -> Path:
    """A consistency model whose targets are made by an average of the student that the method keeps."""
    folder.mkdir(parents=True)
    network = {"class_path": "MLP", "init_args": {"process": EDM, "weights": "asset:teacher_mixture.safetensors"}}
    target = {"class_path": "EMATarget", "init_args": {"rule": EMA["init_args"]["rule"]}}
    problem = mixture(folder, "ECT", steps=4, batch_size=32 // world, teacher=network, student=COPY, target=target)
    for name in ("critic", "critic_optimizer", "sampler"):
        del problem["model"]["init_args"][name]
    problem["model"]["init_args"]["student_optimizer"] = sgd(1e-2)
    problem["data"]["init_args"]["with_x0"] = True
    watch = {"class_path": "pair.Holdings", "init_args": {"folder": str(folder)}}
    problem["trainer"] |= {"devices": world, **({"strategy": FSDP} if world > 1 else {})}
    problem["trainer"]["callbacks"] = [EMA, checkpoint(2, dirpath=str(folder)), *([watch] if world > 1 else [])]
    return write(folder / "config.yaml", unshared(problem))


def without_weights(folder: Path) -> Path:
    """A teacher whose file rank 0 does not find."""
    network = {"class_path": "MLP", "init_args": {"process": EDM, "weights": "nowhere.safetensors"}}
    problem = mixture(folder, teacher=network)
    problem["trainer"] |= {"devices": 2, "strategy": FSDP}
    return write(folder / "without.yaml", problem)


def penalised(folder: Path) -> Path:
    """GDD's R1 is a derivative of a derivative."""
    problem = digits(folder, "GDD")
    problem["trainer"] |= {"devices": 2, "strategy": FSDP}
    return write(folder / "penalised.yaml", problem)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, list[str]]]]:
    """Every problem on one process, on two, and on two from the middle on; then what must not hang, and mistakes."""
    folder = tmp_path_factory.mktemp("fsdp")
    write_tiny_pipeline(folder / "sd15")
    write_tiny_sd3(folder / "sd3")
    images = folder / "images"
    images.mkdir()
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 255 - 20 * i)).save(images / f"{i}.png")
        (images / f"{i}.txt").write_text(f"colour number {i}")
    commands: list[list[object]] = []
    for problem, adapters in WAYS:
        place = folder / f"{problem}-{adapters}"
        assert fastgen("fit", "--config", config(folder, place / "one", problem, adapters, 1)) == 0
        commands.append(["fit", "--config", config(folder, place / "two", problem, adapters, 2)])
        resume = ["--ckpt_path", place / "two" / "step=000002.ckpt"]
        commands.append(["fit", "--config", config(folder, place / "resumed", problem, adapters, 2), *resume])
    place = folder / f"{CROSSED}-False"
    offload = {**FSDP, "init_args": {"cpu_offload": True}}
    commands.append(["fit", "--config", config(folder, place / "offloaded", CROSSED, False, 2, strategy=offload)])
    mixed = {"precision": "bf16-mixed"}
    assert fastgen("fit", "--config", config(folder, place / "mixed_one", CROSSED, False, 1, **mixed)) == 0
    commands.append(["fit", "--config", config(folder, place / "mixed_two", CROSSED, False, 2, **mixed)])
    resume = trained = ["--ckpt_path", place / "one" / "step=000002.ckpt"]
    commands.append(["fit", "--config", config(folder, place / "one_then_two", CROSSED, False, 2), *resume])
    commands.append(["fit", "--config", points(folder / "points")])
    resume = ["--ckpt_path", folder / "points" / "last.ckpt"]
    commands.append(["validate", "--config", folder / "points" / "config.yaml", *resume])
    assert fastgen("fit", "--config", kept_target(folder / "target" / "one", 1)) == 0
    commands.append(["fit", "--config", kept_target(folder / "target" / "two", 2)])
    resume = ["--ckpt_path", folder / "target" / "two" / "step=000002.ckpt"]
    commands.append(["fit", "--config", kept_target(folder / "target" / "resumed", 2), *resume])
    # Of three samples to validate on, one process has two.
    often = {"val_check_interval": 1, "check_val_every_n_epoch": None, "max_steps": 2, "strategy": "auto"}
    validated = config(folder, folder / "validated", CROSSED, False, 2, **often)
    both = ["--config", validated, "--config", ROOT / "configs" / "strategy" / "fsdp2.yaml"]
    both.append("--data.init_args.batch_size=1")
    commands += [["fit", *both], ["predict", *both, *trained, "--data.init_args.predict_count=3"]]
    commands += [["fit", "--config", without_weights(folder)], ["fit", "--config", penalised(folder)]]
    results = in_pair(folder, commands)
    for code, errors in results[:-3]:
        assert code == 0, errors
    return folder, results[-3:]


@pytest.fixture
def runs(session: tuple[Path, Any]) -> Path:
    return session[0]


@pytest.mark.parametrize(("problem", "adapters"), WAYS)
def test_two_processes_equal_one(problem: str, adapters: bool, runs: Path):
    place = runs / f"{problem}-{adapters}"
    assert_same_training(place / "one" / "last.ckpt", place / "two" / "last.ckpt", **CLOSE)
    before, after = trained(place / "two" / "step=000002.ckpt"), trained(place / "two" / "last.ckpt")
    for role in ("student", "critic", "averages"):
        moved = max((after[k] - before[k]).abs().max() for k in after if k.startswith(f".state_dict.{role}."))
        assert moved > 1e-3, "two updates are a hundred times the tolerance"
    pictures = [Image.open(p) for p in sorted((place / "two" / "run" / "version_0" / "grids").glob("*.png"))]
    assert len(pictures) == 3


@pytest.mark.parametrize(("problem", "adapters"), WAYS)
def test_resuming_changes_no_bit(problem: str, adapters: bool, runs: Path):
    place = runs / f"{problem}-{adapters}"
    assert_same_training(place / "two" / "last.ckpt", place / "resumed" / "last.ckpt")


def test_the_number_of_processes_may_change_on_resume(runs: Path):
    place = runs / f"{CROSSED}-False"
    assert_same_training(place / "one" / "last.ckpt", place / "one_then_two" / "last.ckpt", **CLOSE)
    resume = ["--ckpt_path", place / "two" / "step=000002.ckpt"]
    assert fastgen("fit", "--config", config(runs, place / "two_then_one", CROSSED, False, 1), *resume) == 0
    assert_same_training(place / "one" / "last.ckpt", place / "two_then_one" / "last.ckpt", **CLOSE)


@pytest.mark.parametrize(("problem", "adapters"), WAYS)
def test_each_process_holds_half_and_checkpoints_leave_the_teacher_out(problem: str, adapters: bool, runs: Path):
    place = runs / f"{problem}-{adapters}" / "two"
    ranks = [json.loads((place / f"holdings-{rank}.json").read_text()) for rank in range(2)]
    saved = load(place / "last.ckpt")["state_dict"]
    for part, (held, whole) in ranks[0].items():
        if part == "codec":
            continue
        assert held + ranks[1][part][0] == whole == ranks[1][part][1], "no element is held twice"
        assert abs(held / whole - 0.5) < 0.05
        if part in ("student", "critic", "averages"):  # one base serves all adapters
            assert whole == ranks[0]["teacher"][1] if not adapters else whole < 0.1 * ranks[0]["teacher"][1]
    assert {name.split(".")[0] for name in saved} <= {"student", "critic", "averages", "extras"}


@pytest.mark.parametrize(("problem", "adapters"), WAYS)
def test_one_process_samples_from_the_checkpoint(problem: str, adapters: bool, runs: Path):
    place = runs / f"{problem}-{adapters}"
    pictures = []
    for name in ("one", "two"):
        out = place / f"{name}.png"
        words = [f"--ckpt={place / name / 'last.ckpt'}", "--seeds=0-1", "--prompt=a cat", f"--out={out}"]
        assert fastgen("sample", *words) == 0
        pictures.append(np.asarray(Image.open(out)).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1 and pictures[0].std() > 1
    weights = [load_file(place / name / "student.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], **CLOSE)


def test_a_kept_target_is_sharded_follows_the_student_and_is_resumed(runs: Path):
    place = runs / "target"
    assert_same_training(place / "one" / "last.ckpt", place / "two" / "last.ckpt", **CLOSE)
    assert_same_training(place / "two" / "last.ckpt", place / "resumed" / "last.ckpt")
    before, after = (trained(place / "two" / name) for name in ("step=000002.ckpt", "last.ckpt"))
    kept = [name for name in after if name.startswith(".state_dict.target_weights.0.")]
    assert len(kept) == sum(name.startswith(".state_dict.student.") for name in after) > 0
    assert max((after[name] - before[name]).abs().max() for name in kept) > 1e-3
    state = load(place / "two" / "last.ckpt")["state_dict"]
    assert (int(state["target_weights.updates"]), int(state["target_weights.samples"])) == (4, 128)
    ranks = [json.loads((place / "two" / f"holdings-{rank}.json").read_text())["target_weights"] for rank in range(2)]
    assert ranks[0][0] + ranks[1][0] == ranks[0][1] and abs(ranks[0][0] / ranks[0][1] - 0.5) < 0.05


def test_parts_may_lie_in_cpu_memory(runs: Path):
    place = runs / f"{CROSSED}-False"
    assert_same_training(place / "two" / "last.ckpt", place / "offloaded" / "last.ckpt", **CLOSE)


def test_mixed_precision_gathers_bf16_and_keeps_fp32(runs: Path):
    """Both round activations, so they differ by a little of what was learned; so does each from fp32."""
    place = runs / f"{CROSSED}-False"
    one, two = (trained(place / name / "last.ckpt") for name in ("mixed_one", "mixed_two"))
    start = trained(place / "mixed_two" / "step=000002.ckpt")
    assert {value.dtype for value in two.values()} == {torch.float32}
    names = [name for name in two if name.startswith((".state_dict.student", ".state_dict.critic"))]
    apart = sum(float((one[name] - two[name]).square().sum()) for name in names)
    moved = sum(float((two[name] - start[name]).square().sum()) for name in names)
    assert 0 < apart < 0.05**2 * moved


def test_evaluation_measures_what_one_process_measures(runs: Path):
    words = ["--trainer.devices=1", "--trainer.strategy=auto", "--ckpt_path", runs / "points" / "last.ckpt"]
    assert fastgen("validate", "--config", runs / "points" / "config.yaml", *words) == 0
    fit, validate, one = (
        [json.loads(line)["values"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in sorted((runs / "points" / "run").iterdir())
    )
    assert len(fit) == len(validate) == len(one) == 3  # teacher, teacher called once, student
    for first, second, third in zip(fit, validate, one, strict=True):
        assert first == pytest.approx(second, rel=1e-5) and second == pytest.approx(third, rel=1e-4, abs=1e-6)


def test_validation_with_uneven_shares_does_not_hang(runs: Path):
    with (runs / "validated" / "run" / "version_0" / "metrics.csv").open() as file:
        losses = [float(row["val/student/match"]) for row in csv.DictReader(file) if row["val/student/match"]]
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_mistakes_are_one_sentence(session: tuple[Path, list[tuple[int, list[str]]]]):
    (uneven, first), (missing, second), (derivative, third) = session[1]
    assert uneven == missing == derivative == 2
    assert all("multiple of 2" in text for text in first)
    assert "nowhere.safetensors" in second[0] and "fastgen" not in second[1], "rank 0 alone reads weights"
    assert all("r1_gamma" in text for text in third)
    assert not any("Traceback" in text for text in (*first, *second, *third))
