"""StableDiffusion and its codec against diffusers' own pipeline, on a tiny pipeline with random weights."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from denoisers.tiny_sd import write_tiny_pipeline

from fastgen import conditions
from fastgen.denoisers.diffusers.sd import StableDiffusion, process_from_scheduler
from fastgen.errors import UserError
from fastgen.processes import VP, Prediction

torch.set_num_threads(1)

PROMPTS = ["a cat", "two dogs, and a very long prompt 123 that does not fit", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny-sd"))


@pytest.fixture(scope="module")
def pipe(folder):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def denoiser(folder):
    denoiser = StableDiffusion(str(folder)).eval()
    denoiser.load_weights()
    return denoiser.requires_grad_(False)


@pytest.fixture(scope="module")
def codec(denoiser):
    return denoiser.make_codec()


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(folder, tmp_path / "pipeline")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def edit(path, **entries):
    """Change entries of a JSON file; None removes."""
    content = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_description(denoiser):
    assert denoiser.sample_shape == (4, 8, 8)
    assert denoiser.prediction == "noise"
    assert denoiser.process.t_max == 999.0
    assert denoiser.takes_prompts
    assert denoiser.get_submodule(denoiser.feature_path) is denoiser.unet.mid_block


def test_state_dict_is_the_unets(denoiser, pipe):
    ours, theirs = denoiser.state_dict(), pipe.unet.state_dict()
    assert set(ours) == {f"unet.{name}" for name in theirs}
    for name, value in theirs.items():
        torch.testing.assert_close(ours[f"unet.{name}"], value, rtol=0, atol=0)


def test_epsilon_equals_diffusers(denoiser, codec, pipe):
    x, t = normal(3, 4, 8, 8), torch.tensor([1.0, 500.0, 999.0])
    condition = codec.encode_condition({"prompt": PROMPTS})
    with torch.no_grad():
        ours = denoiser(x, t, condition)
        theirs = pipe.unet(x, t.long(), encoder_hidden_states=condition["prompt_embeds"]).sample
    torch.testing.assert_close(ours.noise, theirs, rtol=0, atol=1e-6)
    alpha = pipe.scheduler.alphas_cumprod[t.long()].sqrt().reshape(-1, 1, 1, 1)
    torch.testing.assert_close(ours.x0, (x - (1 - alpha**2).sqrt() * theirs) / alpha, rtol=1e-4, atol=1e-4)


def test_time_between_steps_is_not_rounded(denoiser, codec, pipe):
    x, condition = normal(1, 4, 8, 8), codec.encode_condition({"prompt": ["a cat"]})
    with torch.no_grad():
        whole, between = (denoiser.predict(x, torch.tensor([t]).double(), condition) for t in (500.0, 500.5))
        expected = pipe.unet(x, torch.tensor([500.5]), encoder_hidden_states=condition["prompt_embeds"]).sample
    torch.testing.assert_close(between, expected, rtol=0, atol=1e-6)
    assert (between - whole).abs().max() > 1e-3


def test_prompt_embeddings_equal_the_pipelines(codec, pipe):
    ours = codec.encode_condition({"prompt": PROMPTS})
    theirs, null = pipe.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=True)
    torch.testing.assert_close(ours["prompt_embeds"], theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours["null_prompt_embeds"], null, rtol=0, atol=1e-6)
    assert ours["null_prompt_embeds"].stride(0) == 0  # a view of one embedding
    assert not torch.equal(theirs[0], theirs[1])


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("size", [(16, 16), (16, 32)])
def test_ddim_sampling_equals_the_pipelines(denoiser, codec, pipe, folder, spacing, scale, steps, size):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing, clip_sample=False)
    ddim = StableDiffusionPipeline(**{**pipe.components, "scheduler": scheduler}, requires_safety_checker=False)
    ddim.set_progress_bar_config(disable=True)
    prompts, (height, width) = PROMPTS[:2], size
    x = normal(2, *StableDiffusion(str(folder), height=height, width=width).sample_shape)
    options = {"height": height, "width": width, "num_inference_steps": steps, "guidance_scale": scale}
    theirs = ddim(prompts, latents=x, output_type="latent", **options).images

    condition = codec.encode_condition({"prompt": prompts})
    null = denoiser.null_condition(condition)
    grid = [float(t) for t in scheduler.timesteps]
    # set_alpha_to_one is false in SD1.5: its last jump ends at step 0, not at the clean end.
    for now, then in zip(grid, [*grid[1:], 0.0], strict=True):
        t, s = torch.full((2,), now), torch.full((2,), then)
        with torch.no_grad():
            cond, uncond = denoiser(x, t, condition).noise, denoiser(x, t, null).noise
        guided = Prediction(denoiser.process, x, t, uncond + scale * (cond - uncond), "noise")
        x = denoiser.process.jump(guided, s)
    torch.testing.assert_close(x, theirs, rtol=1e-4, atol=1e-4)


def test_decode_and_encode_equal_the_pipelines_vae(codec, pipe):
    latents, images = normal(3, 4, 8, 8), normal(3, 3, 16, 16, seed=1).clamp(-1, 1)
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
        encoded = pipe.vae.encode(images).latent_dist.mode() * pipe.vae.config.scaling_factor
    torch.testing.assert_close(codec.decode(latents), decoded, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(codec.encode(images), encoded, rtol=1e-5, atol=1e-5)


def test_decode_passes_gradients_but_has_none_of_its_own(codec):
    latents = normal(2, 4, 8, 8).requires_grad_()
    codec.decode(latents).square().mean().backward()
    assert latents.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_codec_stays_in_eval_mode_and_out_of_checkpoints(codec):
    codec.train()
    codec.encode_condition({"prompt": ["a cat"]})
    assert not any(module.training for module in codec.modules())
    assert "null_embeds" not in codec.state_dict()


def test_codec_first_used_in_inference_mode_can_be_used_in_training(denoiser):
    codec = denoiser.make_codec()
    with torch.inference_mode():
        codec.decode(normal(1, 4, 8, 8))
        codec.encode_condition({"prompt": ["a cat"]})
    condition = codec.encode_condition({"prompt": ["a cat"]})
    x = normal(1, 4, 8, 8).requires_grad_()
    loss = denoiser(x, torch.tensor([500.0]), denoiser.null_condition(condition)).x0.mean() + codec.decode(x).mean()
    loss.backward()
    assert torch.isfinite(x.grad).all()


def test_autocast_does_not_reach_the_codec(codec):
    latents, expected = normal(1, 4, 8, 8), codec.encode_condition({"prompt": ["a cat"]})["prompt_embeds"]
    images = codec.decode(latents)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(codec.decode(latents), images, rtol=0, atol=0)
        embeds = codec.encode_condition({"prompt": ["a cat"]})["prompt_embeds"]
    torch.testing.assert_close(embeds, expected, rtol=0, atol=0)


def test_deepcopy_shares_nothing_and_is_the_unet_alone(denoiser, pipe):
    twin = copy.deepcopy(denoiser)
    ours = {parameter.data_ptr() for parameter in denoiser.parameters()}
    assert ours.isdisjoint(parameter.data_ptr() for parameter in twin.parameters())
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in pipe.unet.parameters())
    names = {type(module).__name__ for module in twin.modules()}
    assert not names & {"CLIPTextModel", "AutoencoderKL", "StableDiffusionCodec"}
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(next(twin.parameters()), next(denoiser.parameters()))


def test_null_condition_is_the_empty_prompt_and_mixes_per_sample(denoiser, codec):
    condition = codec.encode_condition({"prompt": ["a cat", "a dog"]})
    empty = codec.encode_condition({"prompt": ["", ""]})["prompt_embeds"]
    null = denoiser.null_condition(condition)
    torch.testing.assert_close(null["prompt_embeds"], empty, rtol=0, atol=1e-6)
    assert {k: v.shape for k, v in null.items()} == {k: v.shape for k, v in condition.items()}
    mixed = conditions.where(torch.tensor([True, False]), null, condition)
    assert torch.equal(mixed["prompt_embeds"][0], null["prompt_embeds"][0])
    assert torch.equal(mixed["prompt_embeds"][1], condition["prompt_embeds"][1])
    again = denoiser.null_condition(null)
    assert torch.equal(again["prompt_embeds"], null["prompt_embeds"])


def test_bf16_weights_give_fp32_predictions(denoiser, codec):
    half = copy.deepcopy(denoiser).to(torch.bfloat16)
    x, t, condition = normal(2, 4, 8, 8), torch.full((2,), 501.0), codec.encode_condition({"prompt": ["a", "b"]})
    with torch.no_grad():
        ours, exact = half(x, t, condition), denoiser(x, t, condition)
    assert ours.x0.dtype == torch.float32
    assert (ours.noise - exact.noise).norm() < 0.03 * exact.noise.norm()


def test_gradient_checkpointing_keeps_the_gradient(folder, denoiser, codec):
    saving = StableDiffusion(str(folder), gradient_checkpointing=True)
    saving.load_weights()
    x, t, condition = normal(1, 4, 8, 8), torch.tensor([300.0]), codec.encode_condition({"prompt": ["a cat"]})
    plain = copy.deepcopy(denoiser).requires_grad_(True)
    for network in (saving.train(), plain.train()):
        network(x, t, condition).noise.square().sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(saving.get_parameter(name).grad, parameter.grad, rtol=1e-5, atol=1e-6)


def test_resolution(folder):
    assert StableDiffusion(str(folder)).sample_shape == (4, 8, 8)
    assert StableDiffusion(str(folder), resolution=32).sample_shape == (4, 16, 16)
    assert StableDiffusion(str(folder), height=32, width=20).sample_shape == (4, 16, 10)
    bad = {
        "height is a positive multiple of 2 pixels .* got 15": {"resolution": 15},
        "width is a positive multiple of 2 pixels .* got 15": {"height": 16, "width": 15},
        "give both": {"height": 16},
        "not both": {"resolution": 16, "height": 16, "width": 16},
    }
    for sentence, size in bad.items():
        with pytest.raises(UserError, match=sentence):
            StableDiffusion(str(folder), **size)


def test_constructor_reads_no_weights_and_loading_names_the_missing_file(own_folder):
    (own_folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    denoiser = StableDiffusion(str(own_folder))
    with pytest.raises(UserError, match=r"unet' has no weights"):
        denoiser.load_weights()


def test_missing_folder_or_part_is_one_sentence(own_folder):
    with pytest.raises(UserError, match="is not a folder"):
        StableDiffusion(str(own_folder / "nowhere"))
    shutil.rmtree(own_folder / "text_encoder")
    denoiser = StableDiffusion(str(own_folder))
    with pytest.raises(UserError, match="no folder 'text_encoder'"):
        denoiser.make_codec().encode_condition({"prompt": ["a cat"]})
    shutil.rmtree(own_folder / "scheduler")
    with pytest.raises(UserError, match="no folder 'scheduler'"):
        StableDiffusion(str(own_folder))


def test_hub_out_of_reach_is_one_sentence(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be read from the hub .* give a local pipeline folder") as caught:
        StableDiffusion("nobody/not-in-the-cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_pickled_weights_are_refused(own_folder, part):
    weights = next((own_folder / part).glob("*.safetensors"))
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    denoiser = StableDiffusion(str(own_folder))
    with pytest.raises(UserError, match=rf"{part}' has its weights only as a pickle"):
        use(denoiser, part)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_incomplete_weights_are_refused(own_folder, part):
    from safetensors.torch import load_file, save_file

    weights = next((own_folder / part).glob("*.safetensors"))
    tensors = load_file(weights)
    missing = sorted(tensors)[0]
    del tensors[missing]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match=rf"1 tensors are missing, first '{missing}'"):
        use(StableDiffusion(str(own_folder)), part)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_cut_file_is_refused(own_folder, part):
    weights = next((own_folder / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"{part}/{weights.name}' is damaged or cut off"):
        use(StableDiffusion(str(own_folder)), part)


def use(denoiser, part):
    """Do what reads the weights of a part."""
    match part:
        case "unet":
            denoiser.load_weights()
        case "text_encoder":
            denoiser.make_codec().encode_condition({"prompt": ["a cat"]})
        case "vae":
            denoiser.make_codec().decode(torch.zeros(1, 4, 8, 8))


def test_layout_of_the_official_repository(own_folder, codec):
    """The official files are older: vocab.json and merges.txt, ``text_model.`` before names, a position_ids tensor."""
    from safetensors.torch import load_file, save_file

    model = json.loads((own_folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    (own_folder / "tokenizer" / "tokenizer.json").unlink()
    (own_folder / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (own_folder / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")

    weights = own_folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(weights).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    save_file(tensors, weights, {"format": "pt"})

    old = StableDiffusion(str(own_folder)).make_codec().encode_condition({"prompt": PROMPTS})
    new = codec.encode_condition({"prompt": PROMPTS})
    torch.testing.assert_close(old["prompt_embeds"], new["prompt_embeds"], rtol=0, atol=0)


@pytest.mark.parametrize(("name", "kind"), [("v_prediction", "v"), ("sample", "x0"), (None, "noise")])
def test_prediction_kind_is_read(own_folder, name, kind):
    edit(own_folder / "scheduler" / "scheduler_config.json", prediction_type=name)
    assert StableDiffusion(str(own_folder)).prediction == kind


def test_v_prediction_equals_diffusers(tmp_path):
    from diffusers import DDIMScheduler

    folder = write_tiny_pipeline(tmp_path, prediction_type="v_prediction")
    denoiser = StableDiffusion(str(folder))
    denoiser.load_weights()
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", clip_sample=False)
    x, embeds = normal(1, 4, 8, 8), normal(1, 16, 32, seed=1)
    with torch.no_grad():
        prediction = denoiser(x, torch.tensor([700.0]), {"prompt_embeds": embeds})
    scheduler.set_timesteps(10)
    expected = scheduler.step(prediction.value, 700, x).pred_original_sample
    torch.testing.assert_close(prediction.x0, expected, rtol=1e-5, atol=1e-5)


def test_betas_are_read_as_diffusers_reads_them():
    from diffusers import DDIMScheduler

    betas = torch.linspace(1e-3, 0.3, 20, dtype=torch.float64).tolist()
    cases = [
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000},
        {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 500},
        {"trained_betas": betas, "num_train_timesteps": 20},
    ]
    for case in cases:
        process = process_from_scheduler(case, "test")
        expected = DDIMScheduler(**case).alphas_cumprod
        assert isinstance(process, VP)
        t = torch.arange(len(expected), dtype=torch.float64)
        torch.testing.assert_close(process.alpha(t).square().float(), expected, rtol=2e-5, atol=0)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"rescale_betas_zero_snr": True}, "zero terminal SNR"),  # of a network that predicts noise
        ({"trained_betas": [0.1, 1.0]}, "zero terminal SNR"),
        ({"beta_start": "low"}, "make no process"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule 'squaredcos_cap_v2'"),
        ({"beta_start": None}, "has no beta_start"),
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
    ],
)
def test_unsupported_schedulers_are_refused(own_folder, entries, match):
    edit(own_folder / "scheduler" / "scheduler_config.json", **entries)
    with pytest.raises(UserError, match=match):
        StableDiffusion(str(own_folder))


def test_inpainting_is_refused(own_folder):
    edit(own_folder / "unet" / "config.json", in_channels=9)
    with pytest.raises(UserError, match="inpainting"):
        StableDiffusion(str(own_folder))


def test_prompts_are_needed(denoiser, codec):
    with pytest.raises(UserError, match="needs prompts"):
        codec.encode_condition({"label": torch.zeros(2, dtype=torch.long)})
    with pytest.raises(UserError, match="needs prompts"):
        denoiser(normal(1, 4, 8, 8), torch.tensor([500.0]))
