"""What single families have beside the rest: micro-conditions, parts left out, embedded guidance, packing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from denoisers.families import FLUX, SD3, SDXL
from denoisers.tiny_flux import write_tiny_flux
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sd3 import write_tiny_sd3
from denoisers.tiny_sdxl import write_tiny_sdxl

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.diffusers_flux import Flux
from fastgen.denoisers.diffusers_sd import StableDiffusion
from fastgen.denoisers.diffusers_sd3 import StableDiffusion3
from fastgen.denoisers.diffusers_sdxl import StableDiffusionXL
from fastgen.denoisers.packing import pack, unpack
from fastgen.errors import UserError
from fastgen.extras.gan import GAN
from fastgen.methods import DMD2
from fastgen.sampling.solvers import Euler


def loaded(denoiser: Denoiser) -> Denoiser:
    denoiser.load_weights()
    return denoiser.eval().requires_grad_(False)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- SDXL


def test_sdxl_time_ids_of_a_crop(tmp_path: Path):
    folder = write_tiny_sdxl(tmp_path)
    pipe, denoiser = SDXL().pipe(folder), loaded(StableDiffusionXL(str(folder)))
    noise, prompts = normal(2, 4, 8, 8), ["a cat", "a dog"]
    crop = {"original_size": (40, 30), "crops_coords_top_left": (3, 5), "target_size": (24, 16)}
    sizes = {"height": 16, "width": 16, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
    theirs = pipe(prompts, latents=noise, **crop, **sizes).images
    condition = denoiser.make_codec().encode_condition({"prompt": prompts})
    ids = torch.tensor([[40.0, 30.0, 3.0, 5.0, 24.0, 16.0]]).expand(2, -1)
    with torch.no_grad():
        ours = Euler(3, 3.0).solve(denoiser, noise, {**condition, "time_ids": ids})
        whole = Euler(3, 3.0).solve(denoiser, noise, condition)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (whole - ours).abs().max() > 1e-3


def test_sdxl_without_forced_zeros_embeds_the_empty_prompt(tmp_path: Path):
    folder = write_tiny_sdxl(tmp_path, force_zeros=False)
    family = SDXL()
    ours = StableDiffusionXL(str(folder)).make_codec().encode_condition({"prompt": ["a cat"]})
    theirs = family.embeddings(family.pipe(folder), ["a cat"])
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)
        assert value.any()


def test_sdxl_with_trailing_v_prediction(tmp_path: Path):
    folder = write_tiny_sdxl(tmp_path, prediction_type="v_prediction", timestep_spacing="trailing")
    family, noise = SDXL(), normal(1, 4, 8, 8)
    denoiser = loaded(StableDiffusionXL(str(folder)))
    theirs = family.latents(family.pipe(folder), noise, ["a cat"], 4, 3.0)
    condition = denoiser.make_codec().encode_condition({"prompt": ["a cat"]})
    with torch.no_grad():
        ours = Euler(4, 3.0).solve(denoiser, noise, condition)
    assert denoiser.prediction == "v"
    # diffusers starts trailing grids with variance s^2 / (s^2 + 1) = 0.995 in place of 1.
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_each_unet_refuses_the_others_folder(tmp_path: Path):
    old, new = write_tiny_pipeline(tmp_path / "old"), write_tiny_sdxl(tmp_path / "new")
    with pytest.raises(UserError, match="not one of Stable Diffusion XL base"):
        StableDiffusionXL(str(old))
    with pytest.raises(UserError, match="takes more than a latent"):
        StableDiffusion(str(new))


def test_gan_reads_the_unet_by_default(tmp_path: Path):
    folder = write_tiny_sdxl(tmp_path)
    method = DMD2(teacher=lambda: StableDiffusionXL(str(folder)), extras=[GAN()])
    method.configure_model()
    assert method.extras[0].head.in_shape == (64, 4, 4)


# ---------------------------------------------------------------------- SD3


def test_sd3_without_t5(tmp_path: Path):
    folder = write_tiny_sd3(tmp_path, long_text=False)
    family = SD3()
    pipe = family.pipe(folder, text_encoder_3=None, tokenizer_3=None)
    ours = StableDiffusion3(str(folder)).make_codec().encode_condition({"prompt": ["a cat"]})
    for name, value in family.embeddings(pipe, ["a cat"]).items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)
    assert not ours["prompt_embeds"][:, 16:].any()


def test_sd3_with_dynamic_shift(tmp_path: Path):
    folder = write_tiny_sd3(tmp_path, use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)
    family, noise = SD3(), normal(1, 4, 8, 8)
    denoiser = loaded(StableDiffusion3(str(folder)))
    theirs = family.latents(family.pipe(folder), noise, ["a cat"], 5, 1.0)
    with torch.no_grad():
        ours = Euler(5).solve(denoiser, noise, denoiser.make_codec().encode_condition({"prompt": ["a cat"]}))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- FLUX.1


def test_pack_is_diffusers_packing():
    from diffusers import FluxPipeline

    x = normal(2, 4, 6, 10)
    torch.testing.assert_close(pack(x), FluxPipeline._pack_latents(x, 2, 4, 6, 10), rtol=0, atol=0)
    torch.testing.assert_close(unpack(pack(x), 6, 10), x, rtol=0, atol=0)


def test_flux_embedded_guidance_is_an_input_of_dev_and_not_of_schnell(tmp_path: Path):
    x, t = normal(1, 4, 8, 8), torch.tensor([0.5])
    for name, told in (("dev", True), ("schnell", False)):
        folder = write_tiny_flux(tmp_path / name, guidance=told)
        answers = []
        for scale in (1.0, 3.5):
            denoiser = loaded(Flux(str(folder), resolution=16, max_tokens=8, embedded_guidance=scale))
            condition = denoiser.make_codec().encode_condition({"prompt": ["a cat"]})
            with torch.no_grad():
                answers.append(denoiser.predict(x, t, condition))
        assert torch.equal(*answers) != told


def test_flux_schnell_has_a_fixed_shift(tmp_path: Path):
    folder = write_tiny_flux(tmp_path, guidance=False, use_dynamic_shifting=False, shift=1.0)
    family, noise = FLUX(), normal(1, 4, 8, 8)
    denoiser = loaded(family.build(folder))
    assert denoiser.process.solver_grid(4) == [1.0, 0.75, 0.5, 0.25]
    theirs = family.latents(family.pipe(folder), noise, ["a cat"], 4, 1.0)
    with torch.no_grad():
        ours = Euler(4).solve(denoiser, noise, denoiser.make_codec().encode_condition({"prompt": ["a cat"]}))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
