"""Wan as a causal network of clips, on a tiny pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from denoisers.tiny_wan import write_tiny_wan
from torch import Tensor

from fastgen.denoisers.causal.base import chunks_of
from fastgen.denoisers.causal.caches import CachePolicy, CompressedCache, EMASink, FullCache, WindowCache
from fastgen.denoisers.causal.wan import CausalWan
from fastgen.denoisers.diffusers.wan import Wan
from fastgen.errors import UserError
from fastgen.sampling.clips.streams import Stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_wan(tmp_path_factory.mktemp("wan"))


def made(folder: Path, chunk: int, **options: object) -> CausalWan:
    network = CausalWan(str(folder), height=8, width=16, frames=9, chunk=chunk, **options)  # type: ignore[arg-type]
    network.load_weights()
    return network


def inputs(network: CausalWan) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(0)
    noisy, clean = (torch.randn(2, *network.sample_shape, generator=g) for _ in range(2))
    times = torch.rand(2, network.frames, generator=g, dtype=torch.float64) * 0.8 + 0.1
    return noisy, clean, times, {"prompt_embeds": torch.randn(2, 3, 32, generator=g)}


def streamed(
    network: CausalWan, x: Tensor, times: Tensor, condition: dict, policy: CachePolicy, clean: Tensor
) -> Tensor:
    stream, found = Stream(network, policy), []
    for frames in chunks_of(network.frames, network.chunk):
        view, rows = stream.chunk(len(frames)), slice(frames.start, frames.stop)
        found.append(view(x[:, :, rows], network.per_frame(times[:, rows]), condition).x0)
        stream.write(view, clean[:, :, rows], condition)
    return torch.cat(found, 2)


def test_without_chunks_it_is_wan(folder: Path):
    network, wan = made(folder, 0), Wan(str(folder), height=8, width=16, frames=9)
    wan.load_weights()
    noisy, _, times, condition = inputs(network)
    t = times[:, 0]
    with torch.no_grad():
        plain = wan(noisy, t, condition).x0
        torch.testing.assert_close(network(noisy, t, condition).x0, plain, rtol=1e-5, atol=1e-5)
        same = network(noisy, network.per_frame(t[:, None].repeat(1, 5)), condition).x0
        torch.testing.assert_close(same, plain, rtol=1e-5, atol=1e-5)
        each = network(noisy, network.per_frame(times), condition).x0
    assert (each - plain).abs().max() > 1e-2
    assert network.state_dict().keys() == wan.state_dict().keys()


@pytest.mark.parametrize("policy", [FullCache(), WindowCache(2, 1)], ids=str)
def test_the_whole_clip_equals_chunk_after_chunk(folder: Path, policy: CachePolicy):
    network = made(folder, 2, attends=policy)
    noisy, clean, times, condition = inputs(network)
    assert network.frames == 5
    with torch.no_grad():
        forced = network(noisy, network.per_frame(times), {**condition, "clean": clean}).x0
        chunked = streamed(network, noisy, times, condition, policy, clean)
        free = network(noisy, network.per_frame(times), condition).x0
    torch.testing.assert_close(forced, chunked, rtol=1e-5, atol=1e-5)
    assert (free - forced).abs().max() > 1e-3


@pytest.mark.parametrize("policy", [EMASink(1, 2, decay=0.7), CompressedCache(1, 2)], ids=str)
def test_gradients_are_those_without_checkpoints(folder: Path, policy: CachePolicy):
    gradients = []
    for checkpointing in (False, True):
        network = made(folder, 1, gradient_checkpointing=checkpointing)
        network.train()
        noisy, clean, times, condition = inputs(network)
        streamed(network, noisy, times, condition, policy, clean).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_what_it_does_not_take_is_refused(folder: Path):
    network = made(folder, 2)
    noisy, _, times, condition = inputs(network)
    with pytest.raises(UserError, match="needs prompts"):
        network(noisy, times[:, 0])
    with pytest.raises(UserError, match="no second time"):
        network(noisy, times[:, 0], condition, times[:, 0])
