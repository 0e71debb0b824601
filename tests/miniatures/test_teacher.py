"""The shipped trainings of the miniature Stable Diffusions run, on encoded samples, from a folder of random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sd3 import write_tiny_sd3

import fastgen
from fastgen.miniatures.pipelines import make_pipeline

ROOT = Path(__file__).parents[2]
EMOJI = ROOT / "tests" / "data" / "emoji"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "write", "family", "part"),
    [
        ("sd", write_tiny_pipeline, fastgen.denoisers.StableDiffusion, "unet"),
        ("sd3", write_tiny_sd3, fastgen.denoisers.StableDiffusion3, "transformer"),
    ],
)
def test_a_text_teacher_is_trained_and_written_back(tmp_path: Path, name: str, write, family, part: str) -> None:
    start = str(write(tmp_path / "start"))
    config = yaml.safe_load((ROOT / "configs" / "miniatures" / f"{name}.yaml").read_text())
    config["trainer"] |= {"accelerator": "cpu", "max_steps": 3, "enable_progress_bar": False, "log_every_n_steps": 1}
    config["trainer"]["logger"]["init_args"]["save_dir"] = str(tmp_path / "runs")
    grid = config["trainer"]["callbacks"][1]["init_args"]
    grid |= {"seeds": 2, "columns": 2, "every_n_steps": 2}
    config["model"]["init_args"]["student"]["init_args"]["pretrained"] = start
    config["model"]["init_args"]["solver"]["init_args"]["steps"] = 2
    config["model"]["init_args"]["student_lr_scheduler"]["init_args"] = {"warm_up": 1}
    data = config["data"]["init_args"]
    data["encoder"]["init_args"]["pretrained"] = start
    data["data"]["init_args"] = {"font": str(EMOJI), "drawings": str(EMOJI / "drawings.txt"), "resolution": 16}
    data |= {"count": 24, "batch_size": 4}
    run = fastgen.train(config)
    images = fastgen.sample(run.method, seeds=[0, 1], prompts=["a red apple", "a dog"])
    assert images.shape == (2, 3, 16, 16) and images.isfinite().all()
    weights = run.checkpoint.parent / "student.safetensors"
    make_pipeline(Path(start), tmp_path / "done", {part: weights}, half=True)
    trained = family(str(tmp_path / "done"))
    trained.load_weights()
    before = family(start)
    before.load_weights()
    moved = [(a - b).abs().max() for a, b in zip(trained.parameters(), before.parameters(), strict=True)]
    assert 1e-5 < float(torch.stack(moved).max()) < 0.1
