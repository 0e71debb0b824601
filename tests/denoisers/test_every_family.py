"""Every family against the pipeline that it comes from, and what distillation asks of its network.

Convention (time, sign, grid, guidance, null prompt) and forward: the pictures of the pipeline are ours, where one sign
or factor would make others. Then the derivative along the flow, the resolution of times in bf16, and that samples of a
batch do not see each other.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from denoisers.more_families import RECIPES, Recipe, noise_of
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastgen import conditions
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.wrappers.features import DiscriminatorHead, tap
from fastgen.sampling.solvers import Euler

torch.set_num_threads(1)
PROMPTS = ["a cat", "two dogs, and a long prompt 123"]


class Case(NamedTuple):
    recipe: Recipe
    pipe: Any
    denoiser: Denoiser
    codec: Codec


@pytest.fixture(scope="module", params=RECIPES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    import diffusers

    recipe = RECIPES[request.param]
    folder = recipe.write(tmp_path_factory.mktemp(request.param))
    denoiser = recipe.build(folder).eval().requires_grad_(False)
    denoiser.load_weights()
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return Case(recipe, pipe, denoiser, denoiser.make_codec())


def asked(case: Case, count: int) -> dict[str, torch.Tensor]:
    return case.codec.encode_condition({"prompt": [PROMPTS[i % 2] for i in range(count)]})


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_pipelines_pictures_are_ours(case: Case, scale: float):
    noise = noise_of(case.denoiser, 2)
    theirs = case.recipe.pictures(case.pipe, case.denoiser, noise, PROMPTS, 3, scale)
    with torch.no_grad():
        latents = Euler(3, scale).solve(case.denoiser, noise, asked(case, 2))
        ours = 0.5 * case.codec.decode(latents) + 0.5
        other = 0.5 * case.codec.decode(Euler(3, scale).solve(case.denoiser, -noise, asked(case, 2))) + 0.5
    torch.testing.assert_close(ours.clamp(0, 1), theirs.float(), rtol=0, atol=2e-4)
    assert (other.clamp(0, 1) - theirs).abs().max() > 1e-2


def test_latents_are_those_of_the_vae(case: Case):
    shape = case.codec.decode(noise_of(case.denoiser, 1)).shape
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = case.codec.encode(images)
        found = case.pipe.vae.encode(images)
        raw = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latent
        expected = case.pipe.vae.decode(raw).sample
    assert latents.shape == (1, *case.denoiser.sample_shape)
    torch.testing.assert_close(case.codec.decode(latents), expected, rtol=0, atol=1e-4)


def test_a_sample_does_not_see_its_batch_mates(case: Case):
    x, t, condition = (
        noise_of(case.denoiser, 2),
        case.denoiser.process.time(torch.tensor([0.4, 3.0]).double()),
        asked(case, 2),
    )
    with torch.no_grad():
        both = case.denoiser(x, t, condition).value
        for row in ([0], [1]):
            alone = case.denoiser(x[row], t[row], conditions.select(condition, torch.tensor(row))).value
            torch.testing.assert_close(both[row], alone, rtol=0, atol=2e-5)
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_near_times_are_apart_in_bf16(case: Case):
    """64 times that FLUX's own code would round to 5 of bf16."""
    low = copy.deepcopy(case.denoiser).bfloat16()
    low.requires_grad_(False)
    process = low.process
    t = process.time(torch.linspace(1.0, 1.064, 65, dtype=torch.float64)[:64])
    x, condition = noise_of(low, 1).expand(64, *low.sample_shape), asked(case, 1)
    condition = {name: value.expand(64, *value.shape[1:]) for name, value in condition.items()}
    heard: list[torch.Tensor] = []
    embedder = low.get_submodule(low.number_paths[0])
    handle = embedder.register_forward_hook(lambda _, inputs, output: heard.append(inputs[0]))
    with torch.no_grad():
        answers = low(x, t, condition).value
    handle.remove()
    assert heard[0].dtype == torch.float32
    assert len(heard[0].reshape(64, -1).unique(dim=0)) == 64
    assert len(answers.flatten(1).unique(dim=0)) >= case.recipe.answers


def test_the_exact_derivative_is_the_central_difference(case: Case):
    if case.recipe.derivative:
        pytest.skip(case.recipe.derivative)
    network = copy.deepcopy(case.denoiser).double().requires_grad_(False)
    condition = {k: v.double() if v.is_floating_point() else v for k, v in asked(case, 2).items()}
    x = noise_of(network, 2).double()
    t = network.process.time(torch.tensor([0.4, 3.0]).double())
    dx, dt = noise_of(network, 2, seed=1).double(), 0.3 * t

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return network(x, t, condition).value

    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        _, exact = torch.func.jvp(field, (x, t), (dx, dt))
        h = 1e-3
        near = (field(x + h * dx, t + h * dt) - field(x - h * dx, t - h * dt)) / (2 * h)
    assert (exact - near).norm() < 2e-2 * exact.norm()


def test_gradients_reach_a_discriminator(case: Case):
    path = case.denoiser.feature_path
    x = noise_of(case.denoiser, 2).requires_grad_()
    example = case.denoiser.example_condition(2)
    assert example.keys() == asked(case, 2).keys()
    t = case.denoiser.process.time(torch.tensor([1.0, 1.0]).double())
    with tap(case.denoiser, [path]) as features:
        value = case.denoiser(x, t, example).value
    (gradient,) = torch.autograd.grad(features[path][0].square().sum(), x, retain_graph=True)
    assert gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0
    assert DiscriminatorHead(features[path].shape[1:])(features[path]).shape == (2,)
    (gradient,) = torch.autograd.grad(value.square().sum(), x)
    assert gradient.isfinite().all() and gradient.flatten(1).abs().sum(1).min() > 0
