"""Encoders that run at key steps only, and diffusers' block cache; against Euler steps by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from denoisers.families import FAMILIES
from denoisers.tiny_sd import write_tiny_pipeline
from torch import Tensor, nn

from fastgen.denoisers import DiT, StableDiffusion, UNet
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.processes import EDM, RectifiedFlow
from fastgen.sampling.solvers import BlockCache, Euler, FasterDiffusion


def stirred(network: Denoiser) -> Denoiser:
    """With weights of which none is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def unet() -> Denoiser:
    return stirred(UNet(EDM(), num_classes=10))


def noise(shape: tuple[int, ...], count: int = 2) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def calls_of(modules: list[nn.Module]) -> list[int]:
    counts = [0]

    def count(*_: object) -> None:
        counts[0] += 1

    for module in modules:
        module.register_forward_pre_hook(count)
    return counts


@torch.no_grad()
def test_all_steps_as_keys_are_euler():
    network, label = unet(), {"label": torch.tensor([1, 2])}
    z = noise((1, 8, 8))
    solver = FasterDiffusion(6, 2.0, key_steps=range(6), noise_share=0.0)
    torch.testing.assert_close(solver.solve(network, z, label), Euler(6, 2.0).solve(network, z, label), rtol=0, atol=0)


@torch.no_grad()
def test_between_keys_the_decoder_reads_the_last_features():
    """By hand: a U-Net whose encoder's outputs are those of step 0 or 2."""
    network, label = unet(), {"label": torch.tensor([1, 2])}
    z = noise((1, 8, 8))
    solver = FasterDiffusion(4, key_steps=[2], noise_share=0.0)
    encoder = network.encoder_parts()
    found = solver.solve(network, z, label)
    assert not any("forward" in vars(module) for module in encoder)
    x, times = solver.begin(network.process, z, None)
    kept: list[Tensor] = []
    for number in range(4):
        replay = number in (1, 3)
        given = iter(list(kept))
        if not replay:
            kept = []

        def hook(module: nn.Module, inputs: object, output: Tensor, replay: bool = replay, given=given, kept=kept):
            if replay:
                return next(given)
            kept.append(output)
            return None

        handles = [module.register_forward_hook(hook) for module in encoder]
        x = network.process.jump(network(x, times[number], label), times[number + 1])
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found, Euler(4).solve(network, z, label), atol=1e-3)


@torch.no_grad()
def test_the_encoder_runs_at_key_steps_only():
    network, label = unet(), {"label": torch.tensor([1, 2])}
    parts = network.encoder_parts()
    inside = [getattr(part, "conv_in", None) for part in parts]
    encoder = calls_of([part for part in inside if part is not None])
    decoder = calls_of([network.get_submodule("head")])
    FasterDiffusion(10, key_steps=[4, 7]).solve(network, noise((1, 8, 8)), label)
    assert encoder[0] == 3 * (len(parts) - 1) and decoder[0] == 10  # the stem has no layers inside


@torch.no_grad()
def test_first_noise_is_added_below_half_of_the_levels():
    class Still(UNet):
        def predict(self, x_t: Tensor, t: Tensor, condition, s=None) -> Tensor:
            return torch.zeros_like(x_t)

    network, z = Still(EDM()), noise((1, 8, 8))
    solver = FasterDiffusion(4, key_steps=range(4), noise_share=0.01)
    x, times = solver.begin(network.process, z, None)
    first = x
    for t, s in pairwise(times):
        if network.process.fraction(t)[0] < 0.5:
            x = x + 0.01 * first
        x = s[0] / t[0] * x
    torch.testing.assert_close(solver.solve(network, z, {}), x.float())


@torch.no_grad()
def test_on_a_unet_of_diffusers(tmp_path: Path):
    write_tiny_pipeline(tmp_path / "pipe")
    network = StableDiffusion(pretrained=str(tmp_path / "pipe"), resolution=16)
    network.load_weights()
    condition = network.make_codec().encode_condition({"prompt": ["a cat", "a dog"]})
    z = noise(network.sample_shape)
    every = FasterDiffusion(4, 3.0, key_steps=range(4), noise_share=0.0)
    torch.testing.assert_close(every.solve(network, z, condition), Euler(4, 3.0).solve(network, z, condition))
    counts = calls_of([network.network.mid_block.resnets[0]])
    few = FasterDiffusion(4, 3.0, key_steps=[2]).solve(network, z, condition)
    assert counts[0] == 2 and few.isfinite().all()


def test_other_networks_are_refused():
    dit = DiT(RectifiedFlow())
    z = noise((1, 8, 8))
    with pytest.raises(UserError, match="is no U-Net"):
        FasterDiffusion(2).solve(dit, z, {})
    with pytest.raises(UserError, match="has no block cache of diffusers"):
        BlockCache(2).solve(dit, z, {})


@torch.no_grad()
def test_the_block_cache_of_diffusers(tmp_path: Path):
    """A threshold of 0 leaves nothing out; a large one asks the blocks once."""
    case = FAMILIES["Flux"]
    case.write(tmp_path / "pipe")
    from fastgen.denoisers import Flux

    network = Flux(pretrained=str(tmp_path / "pipe"), resolution=16, max_tokens=16)
    network.load_weights()
    condition = network.make_codec().encode_condition({"prompt": ["a cat", "a dog"]})
    z = noise(network.sample_shape)
    plain = Euler(4).solve(network, z, condition)
    torch.testing.assert_close(BlockCache(4, threshold=0.0).solve(network, z, condition), plain)
    assert not network.network.is_cache_enabled
    cached = BlockCache(4, threshold=1e9).solve(network, z, condition)
    assert cached.isfinite().all() and not torch.equal(cached, plain)
    torch.testing.assert_close(Euler(4).solve(network, z, condition), plain)
