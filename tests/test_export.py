"""Exported students: a process without fastgen makes the images of ``fastgen sample``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import fastgen, trainer, write
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sd3 import write_tiny_sd3
from denoisers.tiny_sdxl import write_tiny_sdxl
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastgen.checkpoints import method_from_checkpoint
from fastgen.denoisers.diffusers_sd import StableDiffusion
from fastgen.denoisers.diffusers_sd3 import StableDiffusion3
from fastgen.errors import UserError
from fastgen.export import baked_scheduler
from fastgen.randomness import Draws

PROMPTS = ["a cat", "two dogs"]

LOADER = """
import sys
import torch
import diffusers
from safetensors.torch import load_file, save_file

folder, noises, steps, size, out = sys.argv[1:]
pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
noise = load_file(noises)
left = [noise[name] for name in sorted(noise)]
first = left.pop(0)
# The pipeline draws its further noise in the scheduler; there it gets ours.
module = sys.modules[type(pipe.scheduler).__module__]
module.randn_tensor = lambda shape, **_: left.pop(0) if left else torch.zeros(shape)
images = pipe(
    ["a cat", "two dogs"], latents=first, num_inference_steps=int(steps), guidance_scale=1.0,
    height=int(size), width=int(size), output_type="pt",
).images
assert not left
assert not any(name.split(".")[0] == "fastgen" for name in sys.modules)
save_file({"images": images.contiguous()}, out)
"""


def trained(folder: Path, teacher: str, pipeline: Path, sampler: dict[str, Any], **options: Any) -> Path:
    """A checkpoint after two updates with a high learning rate, so that the student is not its teacher."""
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}
    config = {
        "trainer": trainer(
            folder, 2, {"class_path": "fastgen.callbacks.Checkpoint", "init_args": {"every_n_steps": 2}}
        ),
        "model": {
            "class_path": "SiD",
            "init_args": {
                "teacher": {"class_path": teacher, "init_args": {"pretrained": str(pipeline), **options}},
                "sampler": {"class_path": "StudentSampler", "init_args": sampler},
                "student_optimizer": optimizer,
                "critic_optimizer": optimizer,
            },
        },
        "data": {"class_path": "Prompts", "init_args": {"path": "asset:prompts_toy.txt", "batch_size": 2}},
    }
    assert fastgen("fit", "--config", write(folder / "config.yaml", config)) == 0
    return folder / "run" / "version_0" / "checkpoints" / "last.ckpt"


def images_of_diffusers(folder: Path, noises: Sequence[Tensor], steps: int, scratch: Path) -> Tensor:
    """What a process that knows diffusers only makes of the same noise."""
    save_file({f"{i}": noise for i, noise in enumerate(noises)}, scratch / "noise.safetensors")
    words = [folder, scratch / "noise.safetensors", steps, 16, scratch / "images.safetensors"]
    answer = subprocess.run(
        [sys.executable, "-c", LOADER, *map(str, words)], cwd=scratch, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return load_file(scratch / "images.safetensors")["images"]


CASES = {
    "sd15, as trained by SiD": ("StableDiffusion", write_tiny_pipeline, {"times": [625.0]}, {}, 1),
    "sd15, one step": ("StableDiffusion", write_tiny_pipeline, {}, {}, 1),
    "sd15, four steps": ("StableDiffusion", write_tiny_pipeline, {"times": [999.0, 749.0, 499.0, 249.0]}, {}, 4),
    "sd15, four steps of DDIM": (
        "StableDiffusion",
        write_tiny_pipeline,
        {"times": [999.0, 749.0, 499.0, 249.0], "stochastic": False},
        {},
        4,
    ),
    "sdxl, four steps": ("StableDiffusionXL", write_tiny_sdxl, {"times": [999.0, 749.0, 499.0, 249.0]}, {}, 4),
    "sd3, one step": ("StableDiffusion3", write_tiny_sd3, {}, {}, 1),
    "sd3, four steps": ("StableDiffusion3", write_tiny_sd3, {"times": [1.0, 0.9, 0.75, 0.5]}, {}, 4),
    "sd3, four steps of Euler": (
        "StableDiffusion3",
        write_tiny_sd3,
        {"times": [1.0, 0.9, 0.75, 0.5], "stochastic": False},
        {},
        4,
    ),
}


ASKED = ("sd15, one step", "sd15, four steps", "sd3, one step", "sd3, four steps", "sd15, as trained by SiD")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in ASKED else pytest.mark.slow) for n in CASES])
def test_diffusers_alone_makes_the_same_images(name: str, tmp_path: Path):
    teacher, make, sampler, options, steps = CASES[name]
    pipeline = make(tmp_path / "teacher")
    checkpoint = trained(tmp_path, teacher, pipeline, sampler, **options)
    out = tmp_path / "student"
    assert fastgen("export", f"--ckpt={checkpoint}", f"--out={out}") == 0
    assert {"fastgen.json", "README.md", "model_index.json"} <= {path.name for path in out.iterdir()}

    method = method_from_checkpoint(checkpoint)
    ours = method.sample([3, 5], {"prompt": PROMPTS})
    draws = Draws(0, [3, 5], "sample")
    names = ["noise", *(f"noise{i}" for i in range(1, steps if method.sampler.stochastic else 1))]
    noises = [draws.normal(key, method.student.sample_shape) for key in names]
    theirs = images_of_diffusers(out, noises, steps, tmp_path)
    torch.testing.assert_close(theirs, (0.5 * ours + 0.5).clamp(0, 1), rtol=0, atol=1e-3)

    part = method.student.part
    before, after = (load_file(next((folder / part).glob("*.safetensors"))) for folder in (pipeline, out))
    assert before.keys() == after.keys() and any(not torch.equal(before[key], after[key]) for key in before)


def test_times_that_no_scheduler_knows_are_refused(tmp_path: Path):
    vp = StableDiffusion(str(write_tiny_pipeline(tmp_path / "vp")))
    flow = StableDiffusion3(str(write_tiny_sd3(tmp_path / "flow")))
    with pytest.raises(UserError, match="call at 999, 749, 499, 249"):
        baked_scheduler(vp, [999.0, 800.0, 500.0, 100.0], stochastic=True)
    with pytest.raises(UserError, match="call at 999, 499"):
        baked_scheduler(vp, [625.0, 300.0], stochastic=True)
    with pytest.raises(UserError, match="whole numbers"):
        baked_scheduler(vp, [624.5], stochastic=True)
    with pytest.raises(UserError, match="pure noise at t = 1"):
        baked_scheduler(flow, [0.7], stochastic=True)
    with pytest.raises(UserError, match="cannot express"):
        baked_scheduler(flow, [1.0, 0.9, 0.3, 0.2], stochastic=True)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
def test_even_shifted_grids_are_baked_exactly(tmp_path: Path, shift: float, steps: int):
    flow = StableDiffusion3(str(write_tiny_sd3(tmp_path, shift=shift)))
    times = flow.process.grid(steps)
    scheduler = baked_scheduler(flow, times, stochastic=True)
    again = type(scheduler).from_config(dict(scheduler.config))
    again.set_timesteps(steps)
    torch.testing.assert_close(again.sigmas[:-1], torch.tensor(times), rtol=0, atol=1e-6)


def test_what_cannot_be_exported_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pipeline = write_tiny_pipeline(tmp_path / "teacher")
    checkpoint = trained(tmp_path, "StableDiffusion", pipeline, {})
    assert fastgen("export", f"--ckpt={checkpoint}", f"--out={pipeline}") == 2
    assert "exists; give a folder that is new or empty" in capsys.readouterr().err
    assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / 'x'}", "--role=teacher") == 2
    assert "nothing to export" in capsys.readouterr().err
    assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / 'x'}", "--steps=3") == 2
    assert "call at 998, 665, 332" in capsys.readouterr().err
