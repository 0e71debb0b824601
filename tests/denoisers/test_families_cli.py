"""The shipped config of every diffusers family through the command line, on its tiny pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from command_line import ROOT, fastgen, few_of, last, load, write
from denoisers.families import FAMILIES
from denoisers.more_families import RECIPES
from denoisers.tiny_sd import write_tiny_pipeline
from PIL import Image
from safetensors.torch import save_file

from fastgen.checkpoints.reading import method_from_checkpoint
from fastgen.pictures.grids import CAPTION_SIZE

SD15 = {"write": write_tiny_pipeline, "teacher": "StableDiffusion", "options": {"resolution": 16}}
SDXL, SD3, FLUX, QWEN, WAN = (
    {"write": FAMILIES[name].write, "teacher": name, "options": options}
    for name, options in {
        "StableDiffusionXL": {},
        "StableDiffusion3": {"resolution": 16, "max_tokens": 16},
        "Flux": {"resolution": 16, "max_tokens": 16},
        "QwenImage": {"resolution": 16},
        "Wan": FAMILIES["Wan"].options,
    }.items()
)

CAUSAL_WAN = WAN | {
    "teacher": "CausalWan",
    "model": {"student": {"class_path": "CausalCopy", "init_args": {"chunk": 1}}},
}


def tiny_vision(folder: Path, tiny: dict[str, Any]) -> list[dict[str, Any]]:
    """A network of images in a file."""
    torch.manual_seed(5)
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), folder / "vit.safetensors")
    options = {"model": "test_vit", "layers": ["blocks.0"], "weights": str(folder / "vit.safetensors"), "size": 160}
    return [{"class_path": "TimmBackbone", "init_args": options}]


def tiny_senseflow(folder: Path, tiny: dict[str, Any]) -> list[dict[str, Any]]:
    """The extras of its config, whose network of images is a small one."""
    config = yaml.safe_load((ROOT / "configs" / "senseflow_sd3.yaml").read_text())
    extras = config["model"]["init_args"]["extras"]
    extras[-1]["init_args"]["backbones"] = tiny_vision(folder, tiny)
    return extras


def tiny_student(folder: Path, tiny: dict[str, Any]) -> dict[str, Any]:
    """A student of an architecture of its own."""
    return {"class_path": "StableDiffusion", "init_args": dict(tiny)}


# What of a config is too large for a tiny pipeline: values, or functions of the folder and the pipeline's options.
CONFIGS = {
    "emd_sd15": SD15 | {"model": {"corrector": {"class_path": "Langevin", "init_args": {"steps": 2}}}},
    "msd_sd15": SD15,
    "sfd_sd15": SD15,
    "wadi_sd15": SD15,
    "swiftbrush_sd21": SD15,
    "f_distill_sd15": SD15,
    "sdxs_sd15": SD15 | {"model": {"student": tiny_student}},
    "disback_sdxl": SDXL | {"model": {"degradation": 2, "snapshots": 2}},
    "adp_sdxl": SDXL | {"model": {"layers": "bottleneck", "backbones": tiny_vision}},
    "adm_sdxl": SDXL | {"model": {"layers": "bottleneck"}},
    "add_sdxl": SDXL | {"model": {"backbones": tiny_vision}},
    "ladd_sd3": SD3 | {"model": {"layers": "bottleneck"}},
    "sgmd_wan": WAN,
    "data_forcing_wan": WAN,
    "sid_sd15": SD15,
    "lcm_sd15": SD15,
    "pcm_sd15": SD15,
    "scott_sd15": SD15,
    "tdd_sdxl": SDXL,
    "hyper_sd_sdxl": SDXL,
    "tbcm_sd3": SD3,
    "mcm_wan": WAN,
    "dmd_sd15": SD15,
    "decoupled_dmd_sdxl": SDXL,
    "senseflow_sd3": SD3 | {"model": {"extras": tiny_senseflow}},
    "dp_dmd_sd3": SD3,
    "cdm_sd3": SD3,
    "one_x_distill_sd3": SD3,
    "sd35_flash_sd3": SD3,
    "swd_sd3": SD3,
    "phased_dmd_wan": WAN,
    "dmd2_sdxl": SDXL,
    "dmd2_sd3": SD3,
    "scm_sd3": SD3,
    "dmd2_flux": FLUX,
    "meanflow_flux": FLUX,
    "dmd2_qwenimage": QWEN,
    "dmd2_wan": WAN,
    "self_forcing_wan": CAUSAL_WAN,
    "causvid_wan": CAUSAL_WAN,
    "rcm_wan": WAN,
    "scfm_sd3": SD3,
    "ayf_flux": FLUX,
    "boot_sd21": SD15,
    "sid_emoji": SD15,
    "dmd2_emoji": SD15,
    "swiftbrush_emoji": SD15,
    "lcm_emoji": SD15,
    "dmd2_emoji_sd3": SD3,
    "tdm_emoji_sd3": SD3,
    "meanflow_emoji_sd3": SD3,
    "rcm_emoji_sd3": SD3,
    "pi_flow_emoji_sd3": SD3,
    "pi_flow_flux": FLUX,
    "pi_flow_qwenimage": QWEN,
    "arc_flow_flux": FLUX,
    "arc_flow_qwenimage": QWEN,
    "dmd2_emoji_wan": WAN,
    "rcm_emoji_wan": WAN,
}
TEACHERS = {
    "dmd2_zimage": "ZImage",
    "dmd2_flux2": "Flux2Klein",
    "dmd2_chroma": "Chroma",
    "dmd2_sana": "Sana",
    "dmd2_lumina2": "Lumina2",
    "dmd2_pixart": "PixArtSigma",
}
MORE = {
    name: {"write": RECIPES[teacher].write, "teacher": teacher, "options": RECIPES[teacher].options}
    for name, teacher in TEACHERS.items()
}
"""Families that are seen by the tests of every family; their configs run in the slow suite."""
CONFIGS |= MORE

ADDED = dict.fromkeys(("ayf_flux", "boot_sd21", "meanflow_flux", "meanflow_emoji_sd3"), "second_time")
"""Inputs that students get."""
COPY = {"class_path": "CopyOfTeacher"}
POLICIES = ("pi_flow_emoji_sd3", "pi_flow_flux", "pi_flow_qwenimage", "arc_flow_flux", "arc_flow_qwenimage")
NOT_EXPORTED = (*ADDED, "rcm_wan", "phased_dmd_wan", "swd_sd3", "rcm_emoji_sd3", "rcm_emoji_wan", *POLICIES)
NOT_EXPORTED += ("self_forcing_wan", "causvid_wan")
"""Students that no pipeline of diffusers can call: for input, output, times or sizes, or because they are several."""
DRAWINGS = ROOT / "tests" / "data" / "emoji"


def images_with_captions(folder: Path, width: int) -> Path:
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (width, 16), (40 * i, 0, 255 - 40 * i)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"colour number {i}")
    return folder


def shortened(config: dict[str, Any], family: dict[str, Any], folder: Path, grid: bool = False) -> Path:
    """A config on a family's tiny pipeline, for two small steps on the CPU, with the data that it asks for."""
    data: dict[str, Any] = {}
    config["trainer"] |= {"max_steps": 2, "accelerator": "cpu", "devices": 1, "precision": "32-true"}
    config["trainer"]["logger"]["init_args"] = {"save_dir": str(folder), "name": "run"}
    kept = ("EMA", "Checkpoint", *(["SampleGrid"] if grid else []))
    config["trainer"]["callbacks"] = [c for c in config["trainer"]["callbacks"] if c["class_path"].endswith(kept)]
    arguments = config["model"]["init_args"]
    if arguments["teacher"]["class_path"] != family["teacher"]:
        arguments["teacher"] = {"class_path": family["teacher"], "init_args": {}}
    tiny = {"pretrained": str(family["write"](folder / "pipeline")), **family["options"]}
    arguments["teacher"]["init_args"] |= tiny
    for key, value in family.get("model", {}).items():
        arguments[key] = value(folder, tiny) if callable(value) else value
    if config["data"]["class_path"] == "ImageFolder":
        width = tiny.get("width", 16)
        data |= {"root": str(images_with_captions(folder / "images", width)), "held_out_fraction": 0.4}
        data |= {"resolution": None, "height": 16, "width": width} if "width" in tiny else {"resolution": 16}
    if config["data"]["class_path"] == "Emoji":
        data |= {"font": str(DRAWINGS), "drawings": str(DRAWINGS / "drawings.txt"), "resolution": 16}
    if config["data"]["class_path"] == "MovingEmoji":
        data |= {"font": str(DRAWINGS), "drawings": str(DRAWINGS / "drawings.txt")}
        data |= {"resolution": 16, "frames": tiny["frames"]}
    pairs = config["data"]["class_path"] == "Pairs"
    if pairs:
        data |= {"path": str(folder / "pairs"), "held_out_count": 2}
        arguments["solver"]["init_args"]["steps"] = 3
    config["data"]["init_args"] |= {"batch_size": 2, **data}
    path = write(folder / "config.yaml", config)
    if pairs:
        words = ["--count=6", "--batch-size=3", "--prompts=asset:prompts_toy.txt", f"--out={folder / 'pairs'}"]
        assert fastgen("pairs", f"--config={path}", *words) == 0
    return path


def fitted(config: Path, folder: Path) -> Path:
    """The checkpoint of two steps; every tensor in it is finite and none is the teacher's."""
    assert fastgen("fit", f"--config={config}") == 0
    saved = load(last(folder))
    assert saved["global_step"] == 2 and saved["fastgen"]["bad_steps_total"] == 0
    assert not any(key.startswith(("teacher.", "codec.")) for key in saved["state_dict"])
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())
    return last(folder)


def sampled(checkpoint: Path, out: Path) -> Path:
    assert fastgen("sample", f"--ckpt={checkpoint}", "--seeds=0-1", f"--out={out}", "--prompt=a cat") == 0
    return out


def paths(names: Iterable[str]) -> list[Path]:
    return [ROOT / "configs" / f"{name}.yaml" for name in names]


@pytest.mark.parametrize(
    "path",
    [
        *few_of(paths(name for name in CONFIGS if name not in MORE)),
        *(pytest.param(path, id=path.stem, marks=[pytest.mark.slow]) for path in paths(MORE)),
    ],
)
def test_config_trains_two_steps_and_samples(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name, config = path.stem, yaml.safe_load(path.read_text())
    named = config["model"]["init_args"]["teacher"]["class_path"]
    assert named == CONFIGS[name]["teacher"]
    checkpoint = fitted(shortened(config, CONFIGS[name], tmp_path), tmp_path)
    begun = capsys.readouterr().err
    method = method_from_checkpoint(checkpoint)
    added = [x for x in ("second_time", "guidance_input") if getattr(method.student, x) is not None]
    assert added == ([ADDED[name]] if name in ADDED else [])
    assert all(getattr(method.student, x).out.weight.abs().sum() > 0 for x in added)
    if name == "lcm_sd15":
        assert method.student.network.time_embedding.cond_proj.weight.abs().sum() > 0
        assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / 'exported'}") == 0
        assert "guidance_scale=8.5" in (tmp_path / "exported" / "README.md").read_text()
    assert ("note: 'fastgen export' will refuse this student" in begun) == (name in NOT_EXPORTED)
    if added:
        assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / 'exported'}") != 0
        assert "no pipeline of diffusers has" in capsys.readouterr().err
    if name == "msd_sd15":  # each student by its number
        assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / 'all'}") != 0
        assert "--role average/0 to average/3" in capsys.readouterr().err
        assert fastgen("export", f"--ckpt={checkpoint}", "--role=student/1", f"--out={tmp_path / 'second'}") == 0
    samples = method.sample([0, 1], {"prompt": ["a cat", "a dog"]})
    assert samples.isfinite().all()
    side = CONFIGS[name]["options"].get("resolution", 16)
    assert samples.shape == ((2, 3, 5, 16, 16) if named.endswith("Wan") else (2, 3, side, side))
    shown = side * -(-48 // side)  # enlarged by a whole factor
    with Image.open(sampled(checkpoint, tmp_path / "grid.png")) as picture:
        assert picture.size == ((5 * 16, 16 + 2 + 16) if named.endswith("Wan") else (2 * shown + 2, shown))


@pytest.mark.parametrize("name", ["dmd2_sdxl", "dmd2_flux"])
def test_pictures_that_are_not_square(name: str, tmp_path: Path):
    """Fit with a discriminator or adapters, the pictures of the run, sample and export, 16 pixels high and 32 wide."""
    config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    options = {**CONFIGS[name]["options"], "resolution": "trained", "height": 16, "width": 32}
    grid = name == "dmd2_flux"
    checkpoint = fitted(shortened(config, CONFIGS[name] | {"options": options}, tmp_path, grid), tmp_path)
    method = method_from_checkpoint(checkpoint)
    assert method.student.sample_shape == (4, 8, 16)
    if grid:
        with Image.open(tmp_path / "run" / "version_0" / "grids" / "step_000002.png") as picture:
            # Teacher with all calls and with 1, student: two rows of two under each of the captions.
            assert picture.height == 3 * (2 * 32 + 2 + CAPTION_SIZE + 6) + 2 * 4
        with Image.open(sampled(checkpoint, tmp_path / "grid.png")) as picture:
            assert picture.size == (2 * 64 + 2, 32)  # enlarged twice, like every picture below 48 pixels
    with Image.open(sampled(checkpoint, tmp_path / "pictures") / "000001.png") as picture:
        assert picture.size == (32, 16)
    assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / 'exported'}") == 0
    assert "height=16, width=32" in (tmp_path / "exported" / "README.md").read_text()


@pytest.mark.parametrize(
    ("family", "student"),
    [(SD15, COPY), (SDXL, COPY), (SD3, COPY), (SD3, {"class_path": "LoRA", "init_args": {"rank": 2}}), (QWEN, COPY)],
    ids=["SD15", "SDXL", "SD3", "SD3-LoRA", "QwenImage"],
)
def test_mean_flow_trains_every_family_of_images(family: dict[str, Any], student: Any, tmp_path: Path):
    """The config for FLUX.1 with another teacher and its guidance."""
    config = yaml.safe_load((ROOT / "configs" / "meanflow_flux.yaml").read_text())
    config["model"]["init_args"] |= {"student": student, "guidance": {"low": 5.0}}
    checkpoint = fitted(shortened(config, family, tmp_path), tmp_path)
    learned = load(checkpoint)["state_dict"]["student.second_time.out.weight"]
    assert learned.abs().sum() > 0
    method = method_from_checkpoint(checkpoint)
    assert torch.equal(method.student.second_time.out.weight, learned)
    assert sampled(checkpoint, tmp_path / "grid.png").exists()


@pytest.mark.parametrize("name", ["anyflow_wan", "anyflow_on_policy_wan"])
def test_any_flow_makes_its_own_pipeline(name: str, tmp_path: Path):
    """The second time goes through a copy of Wan's embedder; what is exported is diffusers' pipeline of AnyFlow."""
    config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    checkpoint = fitted(shortened(config, WAN, tmp_path), tmp_path)
    assert any("second_time.embedder" in entry for entry in load(checkpoint)["state_dict"])
    assert fastgen("export", f"--ckpt={checkpoint}", f"--out={tmp_path / 'exported'}") == 0
    assert "AnyFlow" in (tmp_path / "exported" / "model_index.json").read_text()


def test_mean_flow_trains_wan_on_videos_that_its_teacher_made(tmp_path: Path):
    """The three commands at the top of the config."""
    config = yaml.safe_load((ROOT / "configs" / "meanflow_wan.yaml").read_text())
    checkpoint = fitted(shortened(config, WAN, tmp_path, grid=True), tmp_path)
    assert load(checkpoint)["state_dict"]["student.second_time.out.weight"].abs().sum() > 0
    with Image.open(tmp_path / "run" / "version_0" / "grids" / "step_000002.png") as picture:
        # Teacher with 3 calls and 1, student with 1 and 4: two strips of five frames under each of the captions.
        assert picture.height == 4 * (2 * 16 + 2 + CAPTION_SIZE + 6) + 3 * 4
    videos = sorted(sampled(checkpoint, tmp_path / "videos").iterdir())
    assert [video.name for video in videos] == ["000000.webp", "000001.webp"]
    with Image.open(videos[0]) as played:
        assert played.n_frames == 5 and played.size == (16, 16)
