"""Two processes that talk through gloo equal one with the same global batch, all through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    EDM,
    EMA,
    FEWER,
    RING,
    assert_same_training,
    checkpoint,
    environment,
    finish,
    mixture,
    start,
    trained,
    write,
)

pytestmark = pytest.mark.distributed

TWO = ("--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_true", "--data.init_args.batch_size=32")
ONE = ("--data.init_args.batch_size=64",)
RATES = {"SiD": 0.2, "DMD2": 5.0, "FDistill": 5.0}
"""A normalised gradient is a mean over elements, SiD's loss a sum; with these every student moves."""
LEVELS = {"class_path": "LogNormalLevel"}
"""At DMD2's own levels EDM's critic weight 1 / sigma^2 reaches 250,000, and rounding grows with it."""
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def run(folder: Path, config: dict[str, Any], *words: object) -> Path:
    """A run in its own process or processes; returns its ``last.ckpt``."""
    folder.mkdir()
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(folder)
    config["trainer"]["callbacks"] = [*config["trainer"]["callbacks"][:-1], checkpoint(2, dirpath=str(folder))]
    _, err = finish(start("fit", "--config", write(folder / "config.yaml", config), *words))
    assert "terminate called" not in err and "Traceback" not in err
    return folder / "last.ckpt"


def problem(method: str, steps: int = 4, **more: Any) -> dict[str, Any]:
    """Plain gradient descent, so that rounding errors of tiny gradients are not blown up."""
    config = mixture(Path(), method, steps, **{"renoise_time": LEVELS, "critic_time": LEVELS} | more)
    for role, lr in (("student", RATES[method]), ("critic", RATES["SiD"])):
        sgd = {"class_path": "torch.optim.SGD", "init_args": {"lr": lr, "momentum": 0.9}}
        config["model"]["init_args"] |= {f"{role}_optimizer": sgd, "gradient_clip": 1.0}
    return config


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("method", ["SiD", "DMD2"])
def test_two_processes_equal_one(method: str, pieces: int, tmp_path: Path):
    one = run(tmp_path / "one", problem(method, micro_batches=pieces), *ONE)
    two = run(tmp_path / "two", problem(method, micro_batches=pieces), *TWO)
    assert_same_training(one, two, **CLOSE)
    before, after = trained(one.with_name("step=000002.ckpt")), trained(one)
    for role in ("student", "critic"):  # two updates are a hundred times the tolerance
        name = f".state_dict.{role}.blocks.0.hidden.weight"
        assert (before[name] - after[name]).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["SiD", "DMD2"])
def test_the_number_of_processes_may_change_on_resume(method: str, tmp_path: Path):
    straight = run(tmp_path / "straight", problem(method, steps=6), *ONE)
    first = run(tmp_path / "two", problem(method), *TWO)
    one = run(tmp_path / "then_one", problem(method, steps=6), *ONE, "--ckpt_path", first)
    assert_same_training(straight, one, **CLOSE)
    first = run(tmp_path / "one", problem(method), *ONE)
    two = run(tmp_path / "then_two", problem(method, steps=6), *TWO, "--ckpt_path", first)
    assert_same_training(straight, two, **CLOSE)


def test_two_processes_measure_what_one_does(tmp_path: Path):
    rows = []
    for name, words in (("one", ONE), ("two", TWO)):
        suite = {"class_path": "MixtureMetrics", "init_args": {"distribution": RING, "metrics": FEWER}}
        evaluate = {"class_path": "Evaluate", "init_args": {"suite": suite, "count": 301, "batch_size": 64}}
        config = problem("SiD", steps=2)
        config["trainer"]["callbacks"] = [EMA, evaluate, checkpoint()]
        ckpt = run(tmp_path / name, config, *words)
        path = tmp_path / name / "run" / "version_0" / "metrics.jsonl"
        rows.append([json.loads(line) for line in path.read_text().splitlines()])
        validate = ("validate", "--config", tmp_path / name / "config.yaml", "--ckpt_path", ckpt, *words)
        out, _ = finish(start(*validate))
        assert "eval/mmd2" in out
        again = tmp_path / name / "run" / "version_1" / "metrics.jsonl"
        assert json.loads(again.read_text().splitlines()[-1])["values"] == pytest.approx(
            rows[-1][-1]["values"], rel=1e-5
        )
    assert len(rows[0]) == len(rows[1]) == 3  # teacher, teacher called once, student
    for single, double in zip(*rows, strict=True):
        assert double["count"] == single["count"] == 301
        assert double["values"] == pytest.approx(single["values"], rel=1e-4, abs=1e-6)


def test_plain_ddp_is_refused_in_one_sentence(tmp_path: Path):
    config = write(tmp_path / "config.yaml", mixture(tmp_path))
    process = start("fit", "--config", config, *TWO, "--trainer.strategy=ddp")
    _, err = process.communicate(timeout=400)
    assert process.returncode == 2 and "Traceback" not in err and "terminate called" not in err
    lines = [line for line in err.splitlines() if line.startswith("fastgen")]
    assert [line for line in lines if line.startswith("fastgen: ")] and "ddp_find_unused_parameters_true" in lines[0]
    assert all(line.startswith(("fastgen: ", "fastgen (rank 1): ")) for line in lines)


def test_a_script_of_ones_own_starts_both_processes(tmp_path: Path):
    """The installed ``fastgen`` is such a script: Lightning starts rank 1 by its path."""
    script = tmp_path / "command"
    script.write_text("import sys\nfrom fastgen.__main__ import main\nsys.exit(main())\n")
    config = write(tmp_path / "config.yaml", mixture(tmp_path, steps=2))
    done = subprocess.run(
        [sys.executable, str(script), "fit", "--config", str(config), *TWO],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Starting with 2 processes" in done.stderr


def test_a_gan_on_two_processes_equals_one(tmp_path: Path):
    """The head has no gradient in the student's turn."""
    config = problem("DMD2", steps=2)
    network = {"class_path": "MLP", "init_args": {"process": EDM, "width": 16, "depth": 1}}
    config["model"]["init_args"] |= {"teacher": network, "extras": [{"class_path": "GAN"}]}
    config["data"]["init_args"]["with_x0"] = True
    one = run(tmp_path / "one", json.loads(json.dumps(config)), *ONE)
    two = run(tmp_path / "two", json.loads(json.dumps(config)), *TWO)
    assert_same_training(one, two, **CLOSE)


def test_density_ratios_are_measured_over_all_processes(tmp_path: Path):
    """f-distill's statistics, and a discriminator with an optimizer of its own."""
    config = problem("FDistill", steps=3)
    network = {"class_path": "MLP", "init_args": {"process": EDM, "width": 16, "depth": 1}}
    sgd = config["model"]["init_args"]["critic_optimizer"]
    gan = {"features": "own", "discriminator_weight": 1.0, "optimizer": sgd, "r1_weight": 1.0}
    config["model"]["init_args"] |= {
        "teacher": network,
        "memory": 0.5,
        "schedule": {"critic_updates": 1},
        "extras": [{"class_path": "GAN", "init_args": gan}],
    }
    config["data"]["init_args"]["with_x0"] = True
    one = run(tmp_path / "one", json.loads(json.dumps(config)), *ONE)
    two = run(tmp_path / "two", json.loads(json.dumps(config)), *TWO)
    assert_same_training(one, two, **CLOSE)
    means = trained(one)[".state_dict.ratio_means"]
    assert (means != 1.0).sum() >= 4  # the bins where these levels lie


def test_adapters_on_two_processes_equal_one(tmp_path: Path):
    """Student and critic share the teacher's weights; the head of a GAN reads through the critic's adapter."""
    config = problem("SiD", steps=2)
    network = {"class_path": "MLP", "init_args": {"process": EDM, "width": 16, "depth": 1}}
    lora = {"class_path": "LoRA", "init_args": {"rank": 4}}
    config["model"]["init_args"] |= {
        "teacher": network,
        "student": lora,
        "critic": lora,
        "extras": [{"class_path": "GAN"}],
    }
    config["data"]["init_args"]["with_x0"] = True
    one = run(tmp_path / "one", json.loads(json.dumps(config)), *ONE)
    two = run(tmp_path / "two", json.loads(json.dumps(config)), *TWO)
    assert_same_training(one, two, **CLOSE)
