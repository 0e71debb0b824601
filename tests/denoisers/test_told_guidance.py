"""Networks that are told a guidance scale: their input in diffusers is used, given to students, and exported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from denoisers.families import FLUX
from denoisers.tiny_flux import write_tiny_flux
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sdxl import write_tiny_sdxl

from fastgen.denoisers import Flux, LoRA, StableDiffusion, StableDiffusionXL
from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.wrappers.added_inputs import guidance_features
from fastgen.denoisers.wrappers.guided import Guided, guided
from fastgen.export.pipeline import export_pipeline
from fastgen.export.sampling import Sampling
from fastgen.export.schedulers import baked_scheduler
from fastgen.methods import LCM
from fastgen.methods.flow_maps.guidance import TeacherGuidance
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler

UNETS = {"sd15": (write_tiny_pipeline, StableDiffusion), "sdxl": (write_tiny_sdxl, StableDiffusionXL)}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [16, 256, 7])
def test_features_are_diffusers(width: int):
    from diffusers import LatentConsistencyModelPipeline

    scale = torch.tensor([1.0, 4.3, 8.0, 14.9])
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale - 1.0, embedding_dim=width)
    torch.testing.assert_close(guidance_features(scale, width), theirs, rtol=0, atol=1e-5)


@pytest.fixture(params=UNETS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, type[PipelineDenoiser]]:
    """A pipeline whose U-Net is told the scale."""
    import diffusers

    write, kind = UNETS[request.param]
    path = write(tmp_path / "pipeline")
    pipe = diffusers.DiffusionPipeline.from_pretrained(path)
    unet = type(pipe.unet).from_config({**pipe.unet.config, "time_cond_proj_dim": 12})
    unet.load_state_dict(pipe.unet.state_dict(), strict=False)
    torch.nn.init.normal_(unet.time_embedding.cond_proj.weight, std=0.3)
    unet.save_pretrained(path / "unet")
    return path, kind


def test_a_teacher_that_is_told_the_scale_is_the_pipelines(folder: tuple[Path, type[PipelineDenoiser]]):
    import diffusers

    path, kind = folder
    pipe = diffusers.DiffusionPipeline.from_pretrained(path)
    teacher = kind(str(path), embedded_guidance=3.0)
    teacher.load_weights()
    teacher.eval()
    assert teacher.takes_guidance and teacher.guided_by_input
    assert teacher.call_options(pipe)["guidance_scale"] == 3.0
    condition = teacher.make_codec().encode_condition({"prompt": ["a cat", "a dog"]})
    x, t, scale = normal(2, 4, 8, 8), torch.tensor([999.0, 300.0]), torch.tensor([2.0, 7.5])
    more: dict[str, Any] = {}
    if kind is StableDiffusionXL:
        added = {"text_embeds": condition["pooled_prompt_embeds"], "time_ids": teacher.time_ids.expand(2, -1)}
        more = {"added_cond_kwargs": added}

    def theirs(scale: torch.Tensor) -> torch.Tensor:
        told = pipe.get_guidance_scale_embedding(scale - 1.0, embedding_dim=12)
        text = condition["prompt_embeds"]
        return pipe.unet(x, t, encoder_hidden_states=text, timestep_cond=told, **more).sample

    close = {"rtol": 1e-4, "atol": 1e-5}
    with torch.no_grad():
        ours = teacher(x, t, {**condition, "guidance": scale}).value
        torch.testing.assert_close(ours, theirs(scale), **close)
        torch.testing.assert_close(Guided(teacher, scale)(x, t, condition).value, ours)
        torch.testing.assert_close(teacher(x, t, condition).value, theirs(torch.full((2,), 3.0)), **close)
        found = guided(teacher, x, t, condition, 5.0)  # told, as the pipeline does, not mixed
        torch.testing.assert_close(found.value, theirs(torch.full((2,), 5.0)), **close)
        assert (theirs(scale) - theirs(torch.full((2,), 3.0))).abs().max() > 1e-2
        half = copy.deepcopy(teacher).bfloat16()
        near = half(x, t, {**condition, "guidance": torch.tensor([7.51, 7.51])}).value
        assert (near - half(x, t, {**condition, "guidance": torch.tensor([7.49, 7.49])}).value).abs().max() > 1e-2


@pytest.mark.parametrize("name", UNETS)
def test_a_student_gets_the_input_of_diffusers_checkpoints(name: str, tmp_path: Path):
    import diffusers

    write, kind = UNETS[name]
    teacher = kind(str(write(tmp_path / "pipeline")))
    teacher.load_weights()
    student = copy.deepcopy(teacher).eval()
    student.add_guidance_input()
    student.add_guidance_input()
    assert student.guidance_input is None and student.takes_guidance and not teacher.takes_guidance
    assert teacher.network.config.time_cond_proj_dim is None
    condition = teacher.make_codec().encode_condition({"prompt": ["a cat"]})
    x, t, told = normal(1, 4, 8, 8), torch.tensor([500.0]), {**condition, "guidance": torch.tensor([6.0])}
    with torch.no_grad():
        assert torch.equal(student(x, t, told).value, teacher.eval()(x, t, condition).value)
        torch.nn.init.normal_(student.network.time_embedding.cond_proj.weight, std=0.3)
        expected = student(x, t, told).value
    student.network.save_pretrained(tmp_path / "unet")
    loaded = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert loaded.config.time_cond_proj_dim == 256
    student.add_module("unet", loaded)
    with torch.no_grad():
        assert torch.equal(student(x, t, told).value, expected)
    role = LoRA(rank=2).attach(teacher)  # what a LoRA owns stays beside the shared network
    role.add_guidance_input()
    assert role.guidance_input is not None and not teacher.takes_guidance


def test_flux_is_told_the_scale_of_every_sample(tmp_path: Path):
    family = FLUX()
    flux = family.build(family.write(tmp_path / "dev"))
    flux.load_weights()
    flux.eval()
    flux.add_guidance_input()
    assert flux.guidance_input is None and flux.takes_guidance and not flux.guided_by_input
    condition = flux.make_codec().encode_condition({"prompt": ["a cat", "a cat"]})
    x, t = normal(1, 4, 8, 8).expand(2, -1, -1, -1), torch.tensor([0.5, 0.5])
    with torch.no_grad():
        two = Guided(flux, torch.tensor([2.5, 5.0]))(x, t, condition).value
        default = flux(x, t, condition).value
    torch.testing.assert_close(two[:1], default[:1])  # embedded_guidance 2.5
    assert (two[1] - default[1]).abs().max() > 1e-3
    assert not Flux(str(write_tiny_flux(tmp_path / "schnell", guidance=False)), resolution=16).takes_guidance


def test_an_exported_lcm_is_told_its_scale_and_makes_the_students_samples(tmp_path: Path):
    import diffusers

    folder = write_tiny_pipeline(tmp_path / "pipeline")
    method = LCM(
        teacher=lambda: StableDiffusion(str(folder)),
        guidance=TeacherGuidance(6.0, 16.0, embedded=True, sampling=8.5),
        sampler=RenoiseSampler(times=[999.0]),
    )
    method.configure_model()
    student = method.student
    torch.nn.init.normal_(student.network.time_embedding.cond_proj.weight, std=0.3)
    draws = Draws(0, [3, 5], "sample", torch.device("cpu"))
    told = method.student_condition({}, draws)["guidance"]
    assert told.tolist() == [8.5, 8.5]
    export_pipeline(student, Sampling([999.0], True, {}, float(told[0])), tmp_path / "out")
    assert "guidance_scale=8.5" in (tmp_path / "out" / "README.md").read_text()
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.config.time_cond_proj_dim == 256
    noise = draws.normal("noise", student.sample_shape)
    options = {"num_inference_steps": 1, "output_type": "latent", "height": 16, "width": 16}
    theirs, other = (
        pipe(["a cat", "a dog"], latents=noise, guidance_scale=scale, **options).images for scale in (8.5, 4.0)
    )
    ours = method.latents([3, 5], method.encode_condition({"prompt": ["a cat", "a dog"]}))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert (other - theirs).abs().max() > 10 * (ours - theirs).abs().max()


@pytest.mark.parametrize("times", [[999.0, 759.0, 499.0, 259.0], [999.0, 499.0], [999.0, 679.0, 339.0]])
def test_the_times_of_lcm_among_its_fifty_steps(times: list[float], tmp_path: Path):
    student = StableDiffusion(str(write_tiny_pipeline(tmp_path)))
    scheduler = baked_scheduler(student, times, stochastic=True)
    scheduler.set_timesteps(len(times))
    assert scheduler.timesteps.tolist() == times
