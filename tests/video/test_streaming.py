"""Streams without end: the same chunks as samples, prompts that change, memories that stay small."""

from __future__ import annotations

import pytest
import torch
from video.test_video_methods import law, student

from fastgen.denoisers.causal.caches import CachePolicy, EMASink, FullCache, NoisyCache, WindowCache
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.clips.streaming import StreamingSampler
from fastgen.sampling.samplers import ChunkSampler

ONE, OTHER = {"label": torch.tensor([0, 1])}, {"label": torch.tensor([1, 0])}


def stream(policy: CachePolicy = FullCache(), chunk: int = 1) -> StreamingSampler:
    return StreamingSampler(ChunkSampler([1.0, 0.6], cache=policy), student(chunk), Draws(0, [3, 4]), torch.float64)


@pytest.mark.parametrize("policy", [FullCache(), WindowCache(2, 1, "slot"), EMASink(1, 1), NoisyCache(2, 1)], ids=str)
def test_a_stream_begins_as_a_sample(policy: CachePolicy):
    sampler, network = ChunkSampler([1.0, 0.6], cache=policy), student(1)
    with torch.no_grad():
        whole = sampler.sample(network, Draws(0, [3, 4]), ONE, dtype=torch.float64)
    made = stream(policy)
    assert torch.equal(torch.cat([made.next(ONE) for _ in range(5)], 1), whole)


def test_a_change_of_what_is_asked_for_changes_what_follows():
    plain, changed, recalled = stream(), stream(), stream()
    first = [s.next(ONE) for s in (plain, changed, recalled)]
    assert torch.equal(first[0], first[1])
    recalled.recall(OTHER)
    second = [plain.next(ONE), changed.next(OTHER), recalled.next(OTHER)]
    assert (second[0] - second[1]).abs().max() > 1e-3 and (second[1] - second[2]).abs().max() > 1e-4


@pytest.mark.parametrize("policy", [FullCache(), WindowCache(1, 1)], ids=str)
def test_what_is_recalled_is_what_the_same_frames_would_have_left(policy: CachePolicy):
    made = stream(policy)
    frames = [made.next(ONE) for _ in range(3)]
    made.recall(OTHER)
    again = made.sampler.stream(made.denoiser, OTHER)
    kept = range(3) if isinstance(policy, FullCache) else (0, 2)
    with torch.no_grad():
        for i in kept:
            again.made = i
            view = again.chunk(1)
            again.write(view, frames[i], OTHER)
    assert made.stream is not None
    one, other = made.stream.memories[0], again.memories[0]
    assert [f.index for f in one] == [f.index for f in other] == list(map(float, kept))
    for a, b in zip(one, other, strict=True):
        assert all(
            torch.equal(x, y)
            for left, right in zip(a.layers, b.layers, strict=True)
            for x, y in zip(left, right, strict=True)
        )
    assert made.stream.made == 3


def test_memory_and_what_is_kept_for_recalling_do_not_grow():
    made = stream(WindowCache(2, 1, "slot"))
    sizes = []
    for _ in range(20):
        made.next(ONE)
        assert made.stream is not None
        sizes.append((len(made.stream.memories[0]), len(made.made)))
    assert sizes[4:] == [(3, 3)] * 16


def test_the_exact_law_streams_by_its_own_clips_length():
    made = StreamingSampler(ChunkSampler([1.0, 0.5], cache=WindowCache(2)), law(chunk=2), Draws(0, [0, 1]))
    assert made.next(ONE).shape == (2, 2, 2)


def test_what_cannot_stream_is_refused():
    with pytest.raises(UserError, match="chunk by chunk"):
        stream(chunk=0)
    noisy = stream(NoisyCache(2, 0))
    noisy.recall(ONE)
    noisy.next(ONE)
    with pytest.raises(UserError, match="NoisyCache remembers cannot be computed anew"):
        noisy.recall(OTHER)
