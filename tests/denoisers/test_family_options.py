"""What single families have beside the rest: micro-conditions, parts left out, embedded guidance, packing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from denoisers.families import FLUX, SD3, SDXL, WAN, Qwen
from denoisers.tiny_flux import write_tiny_flux
from denoisers.tiny_qwenimage import write_tiny_qwenimage
from denoisers.tiny_sd import write_tiny_pipeline
from denoisers.tiny_sd3 import write_tiny_sd3
from denoisers.tiny_sdxl import write_tiny_sdxl
from denoisers.tiny_wan import write_tiny_wan

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.diffusers.flux import Flux
from fastgen.denoisers.diffusers.packing import pack, unpack
from fastgen.denoisers.diffusers.qwen_image import QwenImage
from fastgen.denoisers.diffusers.sd import StableDiffusion
from fastgen.denoisers.diffusers.sd3 import StableDiffusion3
from fastgen.denoisers.diffusers.sdxl import StableDiffusionXL
from fastgen.denoisers.diffusers.wan import Wan
from fastgen.denoisers.wrappers.guided import Guided, guided
from fastgen.errors import UserError
from fastgen.extras.gan import GAN
from fastgen.methods import DMD2
from fastgen.processes import Prediction
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


def test_sdxl_is_told_the_size_of_its_pictures(tmp_path: Path):
    denoiser = StableDiffusionXL(str(write_tiny_sdxl(tmp_path)), height=24, width=40)
    assert denoiser.time_ids.tolist() == [[24.0, 40.0, 0.0, 0.0, 24.0, 40.0]]


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


@pytest.mark.parametrize("scale", [float("nan"), -1.0])
def test_a_scale_that_is_told_is_a_number(scale: float, tmp_path: Path):
    kinds = {
        StableDiffusion: write_tiny_pipeline,
        StableDiffusionXL: write_tiny_sdxl,
        Flux: write_tiny_flux,
    }
    for kind, make in kinds.items():
        with pytest.raises(UserError, match="embedded_guidance must be a finite number from 0"):
            kind(str(make(tmp_path / kind.__name__)), embedded_guidance=scale)


def test_gan_reads_the_unet_by_default(tmp_path: Path):
    folder = write_tiny_sdxl(tmp_path)
    method = DMD2(teacher=lambda: StableDiffusionXL(str(folder)), extras=[GAN()])
    method.configure_model()
    assert method.extras[0].heads[0].in_shape == (64, 4, 4)


# ---------------------------------------------------------------------- SD3


def test_sd3_without_t5(tmp_path: Path):
    folder = write_tiny_sd3(tmp_path, long_text=False)
    family = SD3()
    pipe = family.pipe(folder, text_encoder_3=None, tokenizer_3=None)
    ours = StableDiffusion3(str(folder)).make_codec().encode_condition({"prompt": ["a cat"]})
    for name, value in family.embeddings(pipe, ["a cat"]).items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)
    assert not ours["prompt_embeds"][:, 16:].any()


def test_sd3_knows_positions_up_to_a_side(tmp_path: Path):
    folder = write_tiny_sd3(tmp_path)
    largest = StableDiffusion3(str(folder)).network.config.pos_embed_max_size * 4
    assert StableDiffusion3(str(folder), height=largest, width=16).sample_shape == (4, largest // 2, 8)
    with pytest.raises(UserError, match=f"positions of up to {largest} pixels along a side, got 16x{largest + 4}"):
        StableDiffusion3(str(folder), height=16, width=largest + 4)


def test_text_encoders_in_half_precision_give_fp32_embeddings_nearby(tmp_path: Path):
    folder = write_tiny_sd3(tmp_path)
    exact, half = (StableDiffusion3(str(folder), text_dtype=dtype).make_codec() for dtype in ("float32", "bfloat16"))
    ours, theirs = (codec.encode_condition({"prompt": ["a cat"]}) for codec in (half, exact))
    for name, value in theirs.items():
        assert ours[name].dtype == torch.float32
        assert 0 < (ours[name] - value).norm() < 0.03 * value.norm()
    half.decode(normal(1, 4, 8, 8))
    assert half.parts["vae"].dtype == torch.float32 and half.parts["text_encoder_3"].dtype == torch.bfloat16


@pytest.mark.parametrize("size", [(16, 16), (16, 32)])
def test_sd3_with_dynamic_shift(tmp_path: Path, size: tuple[int, int]):
    folder = write_tiny_sd3(tmp_path, use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)
    family, noise = SD3(), normal(1, 4, size[0] // 2, size[1] // 2)
    denoiser = loaded(StableDiffusion3(str(folder), height=size[0], width=size[1]))
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


# ---------------------------------------------------------------------- Qwen-Image


def test_qwen_embeddings_and_samples_do_not_depend_on_the_batch(tmp_path: Path):
    denoiser = loaded(QwenImage(str(write_tiny_qwenimage(tmp_path)), resolution=16))
    codec, noise = denoiser.make_codec(), normal(2, 4, 8, 8)
    together = codec.encode_condition({"prompt": ["a cat", "a far longer prompt than the first"]})
    alone = codec.encode_condition({"prompt": ["a cat"]})
    length = alone["prompt_mask"].shape[1]
    assert together["prompt_mask"].sum(1).tolist() == [alone["prompt_mask"].sum(), together["prompt_mask"].shape[1]]
    torch.testing.assert_close(together["prompt_embeds"][:1, :length], alone["prompt_embeds"], rtol=0, atol=1e-5)
    with torch.no_grad():
        both, one = Euler(3, 4.0).solve(denoiser, noise, together), Euler(3, 4.0).solve(denoiser, noise[:1], alone)
    torch.testing.assert_close(both[:1], one, rtol=1e-4, atol=1e-4)


def test_qwen_guidance_keeps_the_norm_of_every_token(tmp_path: Path):
    denoiser = QwenImage(str(write_tiny_qwenimage(tmp_path)), resolution=16)
    x, t = normal(2, 4, 8, 8), torch.tensor([0.3, 0.8])
    cond, uncond = (Prediction(denoiser.process, x, t, normal(2, 4, 8, 8, seed=seed), "velocity") for seed in (1, 2))
    guided, plain = denoiser.guide(cond, uncond, 4.0), cond.guided(uncond, 4.0)
    torch.testing.assert_close(pack(guided.value).norm(dim=-1), pack(cond.value).norm(dim=-1))
    cosine = torch.cosine_similarity(pack(guided.value), pack(plain.value), dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("keep_norm", [True, False])
def test_losses_and_solvers_guide_qwen_by_one_rule(keep_norm: bool, tmp_path: Path):
    """The pipeline's by default, a plain mixture where a recipe wants that."""
    denoiser = loaded(QwenImage(str(write_tiny_qwenimage(tmp_path)), resolution=16, keep_norm=keep_norm))
    condition = denoiser.make_codec().encode_condition({"prompt": ["a cat", "a dog"]})
    x, t = normal(2, 4, 8, 8), torch.tensor([0.3, 0.8], dtype=torch.float64)
    with torch.no_grad():
        cond, uncond = denoiser(x, t, condition).value, denoiser(x, t, denoiser.null_condition(condition)).value
        values = [
            guided(denoiser, x, t, condition, 20.0).value,
            Guided(denoiser, torch.full((2,), 20.0))(x, t, condition).value,
        ]
    plain = uncond + 20.0 * (cond - uncond)
    for value in values:
        if keep_norm:
            torch.testing.assert_close(pack(value).norm(dim=-1), pack(cond).norm(dim=-1), rtol=1e-4, atol=1e-4)
            assert (value - plain).abs().max() > 1e-2
        else:
            torch.testing.assert_close(value, plain, rtol=1e-4, atol=1e-4)


def test_qwen_long_prompts_are_cut(tmp_path: Path):
    folder = write_tiny_qwenimage(tmp_path)
    pipe = Qwen().pipe(folder)
    full, _ = pipe.encode_prompt(["a cat on a mat"], device="cpu", max_sequence_length=20)
    ours = (
        QwenImage(str(folder), resolution=16, max_tokens=20)
        .make_codec()
        .encode_condition({"prompt": ["a cat on a mat"]})
    )
    assert ours["prompt_embeds"].shape[1] == 20
    torch.testing.assert_close(ours["prompt_embeds"], full, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------- Wan


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_wan_on_the_grid_of_its_released_scheduler(tmp_path: Path, guidance: float):
    """Order one of UniPC is Euler; it tells its network whole steps of 1/1000, and we do not round."""
    folder = write_tiny_wan(tmp_path, unipc=True)
    family = WAN()
    pipe, denoiser = family.pipe(folder), loaded(family.build(folder))
    noise, prompts = normal(2, 4, 3, 8, 8), ["a cat", "a dog"]
    theirs = family.latents(pipe, noise, prompts, 5, guidance)
    condition = denoiser.make_codec().encode_condition({"prompt": prompts})
    exact = denoiser.predict
    with torch.no_grad():
        ours = Euler(5, guidance).solve(denoiser, noise, condition)
        denoiser.predict = lambda x, t, c, s=None: exact(x, ((1000.0 * t - 1e-3).floor()) / 1000.0, c, s)
        rounded = Euler(5, guidance).solve(denoiser, noise, condition)
    torch.testing.assert_close(rounded, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_wan_is_told_one_time_where_its_pipeline_tells_one_for_every_token(tmp_path: Path):
    folder = write_tiny_wan(tmp_path, expand=True)
    family, noise = WAN(), normal(1, 4, 3, 8, 8)
    denoiser = loaded(family.build(folder))
    theirs = family.latents(family.pipe(folder), noise, ["a cat"], 4, 4.0)
    with torch.no_grad():
        ours = Euler(4, 4.0).solve(denoiser, noise, denoiser.make_codec().encode_condition({"prompt": ["a cat"]}))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_wan_refuses_two_experts_and_impossible_lengths(tmp_path: Path):
    with pytest.raises(UserError, match="two experts"):
        Wan(str(write_tiny_wan(tmp_path / "two", boundary=0.9)), height=16, width=16, frames=5)
    folder = write_tiny_wan(tmp_path / "one")
    with pytest.raises(UserError, match="one more than a multiple of 2"):
        Wan(str(folder), height=16, width=16, frames=4)
    assert Wan(str(folder), height=16, width=32, frames=1).sample_shape == (4, 1, 8, 16)


def test_wan_prompts_are_cleaned_as_the_pipeline_does(tmp_path: Path):
    codec = Wan(str(write_tiny_wan(tmp_path)), height=16, width=16, frames=5).make_codec()
    dirty, clean = (codec.encode_condition({"prompt": [text]}) for text in (" a &amp;amp;  cat\n", "a & cat"))
    assert torch.equal(dirty["prompt_embeds"], clean["prompt_embeds"])
