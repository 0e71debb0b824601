"""The shipped config of every diffusers family through the command line, on its tiny pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from command_line import ROOT, fastgen, load
from denoisers.families import FAMILIES
from denoisers.tiny_sd import write_tiny_pipeline
from PIL import Image

from fastgen.checkpoints import method_from_checkpoint

CONFIGS = {
    "sid_sd15": (write_tiny_pipeline, {}),
    "dmd2_sdxl": (FAMILIES["StableDiffusionXL"].write, {}),
    "dmd2_sd3": (FAMILIES["StableDiffusion3"].write, {"max_tokens": 16}),
    "dmd2_flux": (FAMILIES["Flux"].write, {"resolution": 16, "max_tokens": 16}),
    "dmd2_qwenimage": (FAMILIES["QwenImage"].write, {"resolution": 16}),
    "dmd2_wan": (FAMILIES["Wan"].write, FAMILIES["Wan"].options),
    "rcm_wan": (FAMILIES["Wan"].write, FAMILIES["Wan"].options),
}


def images_with_captions(folder: Path) -> Path:
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (16, 16), (40 * i, 0, 255 - 40 * i)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"colour number {i}")
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_config_trains_two_steps_and_samples(name: str, tmp_path: Path):
    write, options = CONFIGS[name]
    path = ROOT / "configs" / f"{name}.yaml"
    config = yaml.safe_load(path.read_text())
    data = {"batch_size": 2}
    if config["data"]["class_path"] == "ImageFolder":
        data |= {"root": images_with_captions(tmp_path / "images"), "resolution": 16, "held_out_fraction": 0.4}
    teacher = {"pretrained": write(tmp_path / "pipeline"), **options}
    if config["data"]["class_path"] == "Pairs":
        data["path"] = tmp_path / "pairs"
        asked = [f"--model.init_args.teacher.init_args.{key}={value}" for key, value in teacher.items()]
        asked += ["--model.init_args.solver.init_args.steps=2", "--prompts=asset:prompts_toy.txt", "--count=5"]
        assert fastgen("pairs", f"--config={path}", f"--out={data['path']}", *asked) == 0
    words = [
        "fit",
        f"--config={path}",
        "--trainer.max_steps=2",
        "--trainer.accelerator=cpu",
        "--trainer.precision=32-true",
        "--trainer.callbacks=fastgen.callbacks.Checkpoint",
        f"--trainer.logger.init_args.save_dir={tmp_path}",
        *(f"--model.init_args.teacher.init_args.{key}={value}" for key, value in teacher.items()),
        *(f"--data.init_args.{key}={value}" for key, value in data.items()),
    ]
    assert fastgen(*words) == 0
    checkpoint = tmp_path / name / "version_0" / "checkpoints" / "last.ckpt"
    saved = load(checkpoint)
    assert saved["global_step"] == 2
    assert not any(key.startswith(("teacher.", "codec.")) for key in saved["state_dict"])
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())
    method = method_from_checkpoint(checkpoint)
    samples = method.sample([0, 1], {"prompt": ["a cat", "a dog"]})
    assert samples.isfinite().all()
    if name.endswith("wan"):
        assert samples.shape == (2, 3, 5, 16, 16)
        return
    assert samples.shape == (2, 3, 16, 16)
    picture = tmp_path / "grid.png"
    assert fastgen("sample", f"--ckpt={checkpoint}", "--seeds=0-1", f"--out={picture}", "--prompt=a cat") == 0
    assert picture.exists()
