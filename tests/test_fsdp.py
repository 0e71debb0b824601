"""FSDP2 on two gloo processes equals one process, for two families, all weights or adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import assert_same_training, checkpoint, fastgen, in_pair, trained, trainer, unshared, write
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sd3 import write_tiny_sd3
from PIL import Image

pytestmark = pytest.mark.distributed

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
FSDP = {"class_path": "fastgen.strategies.FSDP2"}
EMA = {"class_path": "EMA", "init_args": {"rule": {"class_path": "ConstantEMA", "init_args": {"decay": 0.5}}}}
GRID = {"class_path": "SampleGrid", "init_args": {"every_n_steps": 2, "seeds": 3}}
LORA = {"class_path": "LoRA", "init_args": {"rank": 4, "layers": ["*to_q", "*to_k", "*to_v", "*to_out.0"]}}
UNIFORM = {"class_path": "UniformTime", "init_args": {"low": 0.2, "high": 0.8}}


def sgd(lr: float) -> dict[str, Any]:
    """Plain gradient descent, so that rounding errors of tiny gradients are not blown up."""
    return {"class_path": "torch.optim.SGD", "init_args": {"lr": lr, "momentum": 0.9}}


def sid_on_sd15(inputs: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """SiD differentiates through both scores."""
    model = {
        "teacher": {"class_path": "StableDiffusion", "init_args": {"pretrained": str(inputs / "sd15")}},
        "guidance": {"teacher": 2.0, "critic": 2.0, "critic_training": 2.0},
        "sampler": {"class_path": "StudentSampler", "init_args": {"times": [625.0]}},
        "critic_objective": {"class_path": "DenoisingLoss", "init_args": {"target": "noise", "weight": "one"}},
    }
    data = {"class_path": "Prompts", "init_args": {"path": "asset:prompts_toy.txt"}}
    return {"class_path": "SiD", "init_args": model}, data


def dmd2_on_sd3(inputs: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """DMD2 with two steps and a discriminator inside the critic."""
    teacher = {"pretrained": str(inputs / "sd3"), "max_tokens": 16}
    model = {
        "teacher": {"class_path": "StableDiffusion3", "init_args": teacher},
        "guidance": {"teacher": 2.0},
        "sampler": {"class_path": "StudentSampler", "init_args": {"times": [1.0, 0.5]}},
        "critic_objective": {"class_path": "DenoisingLoss", "init_args": {"target": "velocity", "weight": "one"}},
        "schedule": {"critic_updates": 1},
        "extras": [{"class_path": "GAN", "init_args": {"weight": 1.0, "critic_weight": 1.0, "time": UNIFORM}}],
    }
    data = {"class_path": "ImageFolder", "init_args": {"root": str(inputs / "images"), "resolution": 16}}
    data["init_args"] |= {"annotation": "sidecar", "held_out_fraction": 0.25}
    return {"class_path": "DMD2", "init_args": model}, data


PROBLEMS = {"sid_sd15": sid_on_sd15, "dmd2_sd3": dmd2_on_sd3}
WAYS = [(problem, adapters) for problem in PROBLEMS for adapters in (False, True)]


def config(inputs: Path, folder: Path, problem: str, adapters: bool, world: int) -> Path:
    """Four updates of a problem on ``world`` processes with a global batch of four."""
    folder.mkdir(parents=True)
    model, data = PROBLEMS[problem](inputs)
    rate = 1.0 if adapters else 0.05
    model["init_args"] |= {
        "solver": {"class_path": "Euler", "init_args": {"steps": 2, "guidance": 2.0}},
        "renoise_time": UNIFORM,
        "critic_time": UNIFORM,
        "gradient_clip": 1.0,
        "student_optimizer": sgd(rate),
        "critic_optimizer": sgd(rate),
    }
    if adapters:
        model["init_args"]["teacher"]["init_args"]["gradient_checkpointing"] = True
        model["init_args"] |= {"student": LORA, "critic": LORA}
    data["init_args"]["batch_size"] = 4 // world
    watch = {"class_path": "pair.Holdings", "init_args": {"folder": str(folder)}}
    callbacks = [EMA, GRID, checkpoint(2, dirpath=str(folder)), *([watch] if world > 1 else [])]
    settings = trainer(folder, 4, *callbacks, devices=world, **({"strategy": FSDP} if world > 1 else {}))
    return write(folder / "config.yaml", unshared({"threads": 1, "trainer": settings, "model": model, "data": data}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every problem on one process, on two, and on two from the middle on."""
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
    for code, errors in in_pair(folder, commands):
        assert code == 0, errors
    return folder


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
