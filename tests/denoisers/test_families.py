"""Every family against diffusers' own pipeline, on a tiny pipeline with random weights."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from denoisers.families import FAMILIES, Family
from torch import Tensor

from fastgen import conditions
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.wrappers.features import DiscriminatorHead, tap
from fastgen.errors import UserError
from fastgen.sampling.solvers import Euler

torch.set_num_threads(1)

PROMPTS = ["a cat", "two dogs, and a very long prompt 123 that does not fit", ""]


@dataclass
class Case:
    family: Family
    folder: Path
    pipe: Any
    denoiser: Denoiser
    codec: Codec

    def noise(self, count: int, seed: int = 0) -> Tensor:
        return torch.randn(count, *self.denoiser.sample_shape, generator=torch.Generator().manual_seed(seed))

    def times(self, *positions: float) -> Tensor:
        return self.denoiser.process.position(torch.tensor(positions, dtype=torch.float64))


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family = FAMILIES[request.param]
    folder = family.write(tmp_path_factory.mktemp(request.param))
    denoiser = family.build(folder).eval()
    denoiser.load_weights()
    denoiser.requires_grad_(False)
    return Case(family, folder, family.pipe(folder), denoiser, denoiser.make_codec())


def test_state_dict_is_the_networks(case: Case):
    ours, theirs = case.denoiser.state_dict(), case.family.network(case.pipe).state_dict()
    assert set(ours) == {f"{case.family.part}.{name}" for name in theirs}
    for name, value in theirs.items():
        torch.testing.assert_close(ours[f"{case.family.part}.{name}"], value, rtol=0, atol=0)


def test_prompt_embeddings_equal_the_pipelines(case: Case):
    ours, theirs = case.codec.encode_condition({"prompt": PROMPTS}), case.family.embeddings(case.pipe, PROMPTS)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert name.startswith("null_") or not torch.equal(value[0], value[1])


def test_the_network_equals_the_diffusers_module(case: Case):
    x, t = case.noise(3), case.times(0.01, 0.5, 1.0)
    condition = case.codec.encode_condition({"prompt": PROMPTS})
    with torch.no_grad():
        ours = case.denoiser.predict(x, t, condition)
        theirs = case.family.answer(case.pipe, x, t.float(), condition)
    assert ours.shape == x.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_every_input_has_an_effect(case: Case):
    x, t = case.noise(1), case.times(0.5)
    condition = case.codec.encode_condition({"prompt": ["a cat"]})
    other = case.codec.encode_condition({"prompt": ["a dog"]})
    with torch.no_grad():
        base = case.denoiser.predict(x, t, condition)
        changed = {
            "x": case.denoiser.predict(case.noise(1, seed=1), t, condition),
            "t": case.denoiser.predict(x, case.times(0.6), condition),
            **{
                name: case.denoiser.predict(x, t, {**condition, name: other[name]})
                for name in condition
                if not name.startswith("null_") and condition[name].is_floating_point()
            },
        }
    for name, value in changed.items():
        assert (value - base).abs().max() > 1e-4, name


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_the_teachers_sampler_gives_the_pipelines_latents(case: Case, steps: int, guidance: float):
    noise, prompts = case.noise(2), PROMPTS[:2]
    theirs = case.family.latents(case.pipe, noise, prompts, steps, guidance)
    condition = case.codec.encode_condition({"prompt": prompts})
    with torch.no_grad():
        ours = Euler(steps, guidance).solve(case.denoiser, noise, condition)
    if steps == 1 and case.pipe.scheduler.config.get("shift_terminal"):
        assert theirs.isnan().all() and ours.isfinite().all()  # diffusers stretches one sigma by 0 / 0
        return
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(16, 32), (48, 16)])
def test_pictures_that_are_not_square_equal_the_pipelines(case: Case, height: int, width: int):
    """The grid of the flows, SDXL's sizes, rotary positions and the order of the axes."""
    options = {name: value for name, value in case.family.options.items() if name != "resolution"}
    denoiser = case.family.denoiser(str(case.folder), **(options | {"height": height, "width": width}))
    denoiser.load_weights()
    denoiser.eval().requires_grad_(False)
    assert denoiser.sample_shape[-2:] == (height // 2, width // 2)
    assert {"height": height, "width": width}.items() <= denoiser.call_options(case.pipe).items()
    noise = torch.randn(1, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    theirs = case.family.latents(case.pipe, noise, ["a cat"], 3, 4.0)
    ours = Euler(3, 4.0).solve(denoiser, noise, case.codec.encode_condition({"prompt": ["a cat"]}))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert case.codec.decode(ours).shape[-2:] == (height, width)


def test_sizes_that_no_family_takes(case: Case):
    options = {name: value for name, value in case.family.options.items() if name not in ("resolution", "height")}
    bad = {"width is a positive multiple of [24] pixels .* got 17": {"height": 16, "width": 17}}
    if case.family.pipeline != "WanPipeline":
        bad |= {
            "height is given without width; give both": {"height": 16},
            "width is given without height; give both": {"width": 32},
            "give it or those two, not both": {"resolution": 16, "height": 16, "width": 32},
            "height must be an integer from 1": {"height": 0, "width": 16},
        }
    for sentence, size in bad.items():
        with pytest.raises(UserError, match=sentence):
            case.family.denoiser(str(case.folder), **(options | size))


def test_null_condition_is_what_the_pipeline_takes_and_mixes_per_sample(case: Case):
    condition = case.codec.encode_condition({"prompt": ["a cat", "a dog"]})
    null = case.denoiser.null_condition(condition)
    assert {k: v.shape for k, v in null.items()} == {k: v.shape for k, v in condition.items()}
    mixed = conditions.where(torch.tensor([True, False]), null, condition)
    assert torch.equal(mixed["prompt_embeds"][0], null["prompt_embeds"][0])
    assert torch.equal(mixed["prompt_embeds"][1], condition["prompt_embeds"][1])
    again = case.denoiser.null_condition(null)
    assert all(torch.equal(again[name], null[name]) for name in null)
    assert not torch.equal(null["prompt_embeds"], condition["prompt_embeds"])


def test_decode_and_encode_equal_the_pipelines_vae(case: Case):
    latents = case.noise(2)
    with torch.no_grad():
        images = case.family.decoded(case.pipe, latents)
        torch.testing.assert_close(case.codec.decode(latents), images, rtol=1e-5, atol=1e-5)
        encoded = case.family.encoded(case.pipe, images)
        torch.testing.assert_close(case.codec.encode(images), encoded, rtol=1e-4, atol=1e-4)
    assert encoded.shape == latents.shape


def test_gradients_reach_the_latents_and_nothing_in_the_codec(case: Case):
    codec = case.denoiser.make_codec()
    with torch.inference_mode():  # Lightning validates first
        codec.decode(case.noise(1))
        codec.encode_condition({"prompt": ["a cat"]})
    condition = codec.encode_condition({"prompt": ["a cat"]})
    x = case.noise(1).requires_grad_()
    x0 = case.denoiser(x, case.times(0.5), case.denoiser.null_condition(condition)).x0
    (codec.decode(x0).square().mean() + x0.square().mean()).backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_autocast_does_not_reach_the_codec(case: Case):
    latents, expected = case.noise(1), case.codec.encode_condition({"prompt": ["a cat"]})["prompt_embeds"]
    images = case.codec.decode(latents)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(case.codec.decode(latents), images, rtol=0, atol=0)
        embeds = case.codec.encode_condition({"prompt": ["a cat"]})["prompt_embeds"]
    torch.testing.assert_close(embeds, expected, rtol=0, atol=0)


def test_deepcopy_shares_nothing_and_is_the_network_alone(case: Case):
    twin = copy.deepcopy(case.denoiser)
    ours = {parameter.data_ptr() for parameter in case.denoiser.parameters()}
    assert ours.isdisjoint(parameter.data_ptr() for parameter in twin.parameters())
    network = case.family.network(case.pipe)
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert not torch.equal(next(twin.parameters()), next(case.denoiser.parameters()))


def test_bf16_weights_give_fp32_predictions(case: Case):
    half = copy.deepcopy(case.denoiser).to(torch.bfloat16)
    x, t, condition = case.noise(2), case.times(0.5, 0.5), case.codec.encode_condition({"prompt": ["a", "b"]})
    with torch.no_grad():
        ours, exact = half(x, t, condition), case.denoiser(x, t, condition)
    assert ours.x0.dtype == torch.float32
    assert (ours.value - exact.value).norm() < 0.05 * exact.value.norm()


def test_gradient_checkpointing_keeps_the_gradient(case: Case):
    saving = case.family.build(case.folder, gradient_checkpointing=True)
    saving.load_weights()
    x, t, condition = case.noise(1), case.times(0.3), case.codec.encode_condition({"prompt": ["a cat"]})
    plain = copy.deepcopy(case.denoiser).requires_grad_(True)
    for network in (saving.train(), plain.train()):
        network(x, t, condition).value.square().sum().backward()
    trained = 0
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(saving.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-5)
            trained += 1
    assert trained > 0.8 * len(list(plain.parameters()))


def test_a_discriminator_reads_the_features_of_the_image(case: Case):
    example = case.denoiser.example_condition(2)
    assert example.keys() == case.codec.encode_condition({"prompt": ["a", "b"]}).keys()
    path = case.denoiser.feature_path
    x = case.noise(2).requires_grad_()
    with tap(case.denoiser, [path]) as features:
        case.denoiser(x, case.times(0.5, 0.5), example)
    (gradient,) = torch.autograd.grad(features[path][0].square().sum(), x)
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0
    assert DiscriminatorHead(features[path].shape[1:])(features[path]).shape == (2,)


def test_missing_parts_are_one_sentence(case: Case, tmp_path: Path):
    with pytest.raises(UserError, match="is not a folder"):
        case.family.build(tmp_path / "nowhere")
    for part in (*case.family.encoders, "vae", case.family.part, "scheduler"):
        folder = shutil.copytree(case.folder, tmp_path / part)
        shutil.rmtree(folder / part)
        with pytest.raises(UserError, match=f"has no folder '{part}'") as caught:
            denoiser = case.family.build(folder)
            denoiser.make_codec().encode_condition({"prompt": ["a cat"]})
        assert "\n" not in str(caught.value)
    folder = shutil.copytree(case.folder, tmp_path / "pickled")
    weights = next((folder / case.family.part).glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="only as a pickle"):
        case.family.build(folder).load_weights()


def test_prompts_are_needed(case: Case):
    x, t = case.noise(1), case.times(0.5)
    with pytest.raises(UserError, match="needs prompts"):
        case.codec.encode_condition({"label": torch.zeros(2, dtype=torch.long)})
    with pytest.raises(UserError, match="needs prompts"):
        case.denoiser(x, t)


def test_resolution(case: Case):
    sides = ("height", "width") if "height" in case.family.options else ("resolution",)
    doubled = case.family.build(case.folder, **dict.fromkeys(sides, 32))
    assert doubled.sample_shape[-2:] == (16, 16)
    with pytest.raises(UserError, match="multiple of"):
        case.family.build(case.folder, **dict.fromkeys(sides, 15))
