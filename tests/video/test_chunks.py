"""Rollouts of clips chunk by chunk: what is called when, what sees what, what has a gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.denoisers.causal.base import CausalDenoiser
from fastgen.denoisers.causal.caches import CompressedCache, EMASink, FullCache, NoisyCache, WindowCache
from fastgen.denoisers.causal.linear_gaussian import LinearGaussianClips
from fastgen.denoisers.causal.transformer import ClipDiT, ClipTransformer
from fastgen.errors import UserError
from fastgen.processes import RectifiedFlow
from fastgen.randomness import Draws
from fastgen.sampling.clips.inputs import streamed_samples
from fastgen.sampling.clips.streams import Stream
from fastgen.sampling.samplers import ChunkSampler, RenoiseSampler
from fastgen.sampling.solvers import Heun

TIMES = [1.0, 0.75, 0.5, 0.25]


def network(chunk: int = 2, frames: int = 6, **options: Any) -> CausalDenoiser:
    made = ClipTransformer(
        RectifiedFlow(), frames=frames, features=2, width=16, depth=2, heads=2, chunk=chunk, **options
    )
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
    return made


def spied(made: CausalDenoiser) -> list[tuple[float, tuple[int, ...], list[float], bool]]:
    """The calls: time, frames, what they see, whether a graph is recorded."""
    calls = []
    original = made.denoise_frames

    def call(x: Tensor, times: Tensor, condition: Any, seen: Any, second: Any) -> Any:
        kept = [frame.index for frame in seen.context]
        calls.append((round(float(times[0, 0]), 6), seen.indices, kept, torch.is_grad_enabled()))
        return original(x, times, condition, seen, second)

    made.denoise_frames = call  # type: ignore[method-assign]
    return calls


def test_calls_of_a_rollout_by_hand():
    made = network()
    calls = spied(made)
    draws = next(d for d in (Draws(seed, [0, 1]) for seed in range(99)) if d.shared_integer("step", 4) == 1)
    rollout = ChunkSampler(TIMES).rollout(made, draws, {})
    assert calls == [
        (1.0, (0, 1), [], False),
        (0.75, (0, 1), [], True),
        (0.0, (0, 1), [], False),
        (1.0, (2, 3), [0, 1], False),
        (0.75, (2, 3), [0, 1], True),
        (0.0, (2, 3), [0, 1], False),
        (1.0, (4, 5), [0, 1, 2, 3], False),
        (0.75, (4, 5), [0, 1, 2, 3], True),
    ]
    assert rollout.step == 1 and rollout.t.tolist() == [0.75, 0.75] and rollout.x0.shape == (2, 6, 2)
    assert len(rollout.trajectory) == 2
    torch.testing.assert_close(rollout.trajectory[-1].x0, rollout.x0)


@pytest.mark.parametrize("cache", [FullCache(), WindowCache(2, 1), EMASink(2, 2), CompressedCache(2, 2)], ids=str)
@pytest.mark.parametrize("chunk, chunks", [(1, 6), (2, 3), (4, 2), (6, 1)])
def test_the_number_of_calls(cache: Any, chunk: int, chunks: int):
    made = network()
    for step, seed in ((k, s) for k in range(4) for s in range(99)):
        if Draws(seed, [0]).shared_integer("step", 4) == step:
            calls = spied(made)
            ChunkSampler(TIMES, chunk=chunk, cache=cache).rollout(made, Draws(seed, [0]), {})
            del made.denoise_frames
            assert len(calls) == chunks * (step + 1) + chunks - 1
            break


def test_one_chunk_is_the_sampler_without_chunks_bit_for_bit():
    made = network()
    for seed in range(5):
        draws = Draws(seed, [3, 4])
        one = RenoiseSampler(TIMES).rollout(network(chunk=0), draws, {})
        other = ChunkSampler(TIMES, chunk=0).rollout(made, draws, {})
        assert torch.equal(one.x0, other.x0) and one.step == other.step and torch.equal(one.t, other.t)
        assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(one.trajectory, other.trajectory, strict=True))
    samples = [
        s.sample(n, draws, {}) for s, n in ((RenoiseSampler(TIMES), network(0)), (ChunkSampler(TIMES, chunk=0), made))
    ]
    assert torch.equal(*samples)


def test_exits_are_shared_or_one_for_each_chunk_and_micro_batches_share_them():
    made, seen = network(chunk=1), set()
    for seed in range(8):
        same, each = (spied_times(made, ChunkSampler(TIMES, exits=exits), seed) for exits in ("same", "each"))
        assert len({times for times in same}) == 1
        seen.add(tuple(len(times) for times in each))
        assert spied_times(made, ChunkSampler(TIMES, exits="each"), seed, [7]) == each
    assert len(seen) > 4 and any(len(set(stops)) > 1 for stops in seen)
    assert all(len(times) == 4 for times in spied_times(made, ChunkSampler(TIMES, stop="last"), 0))


def spied_times(
    made: CausalDenoiser, sampler: ChunkSampler, seed: int, samples: Any = (0, 1)
) -> list[tuple[float, ...]]:
    """The times at which each chunk is called, without the calls for their memory."""
    calls = spied(made)
    sampler.rollout(made, Draws(seed, list(samples)), {})
    del made.denoise_frames
    chunks: dict[tuple[int, ...], list[float]] = {}
    for t, frames, _, _ in calls:
        if t > 0:
            chunks.setdefault(frames, []).append(t)
    return [tuple(times) for times in chunks.values()]


def test_the_first_chunk_may_have_other_times():
    made = network()
    sampler = ChunkSampler([1.0], first_times=TIMES)
    assert spied_times(made, sampler, 0)[1:] == [(1.0,), (1.0,)]
    stops = {len(spied_times(made, sampler, seed)[0]) for seed in range(12)}
    assert stops == {1, 2, 3, 4}
    equal = ChunkSampler(TIMES, first_times=TIMES).sample(made, Draws(0, [0]), {})
    assert torch.equal(equal, ChunkSampler(TIMES).sample(made, Draws(0, [0]), {}))


def test_only_the_last_call_of_each_chunk_has_a_gradient_and_none_runs_through_what_is_remembered():
    """By finite differences of the network in that call alone, its memories held."""
    made = network().double()
    sampler = ChunkSampler([1.0, 0.5], stop="last")
    rollout = sampler.rollout(made, Draws(0, [0]), {}, torch.float64)
    (gradient,) = torch.autograd.grad(rollout.x0.square().sum(), made.head.weight)
    direction = torch.randn(made.head.weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    original, value = made.denoise_frames, {}
    for sign in (1.0, -1.0):

        def call(x: Tensor, times: Tensor, *rest: Any, sign: float = sign) -> Any:
            moved = float(times[0, 0]) == 0.5
            with torch.no_grad():
                made.head.weight += moved * sign * 1e-5 * direction
                answer = original(x, times, *rest)
                made.head.weight -= moved * sign * 1e-5 * direction
            value[sign] = value.get(sign, [])
            if moved:
                value[sign].append(answer[0])
                return made.held.pop(0), answer[1]
            return answer

        made.held = [c.calls[-1].value.detach() for c in chunks_of_rollout(sampler, made)]
        made.denoise_frames = call  # type: ignore[method-assign]
        sampler.rollout(made, Draws(0, [0]), {}, torch.float64)
        del made.denoise_frames
    slope = (torch.cat(value[1.0], 1).square().sum() - torch.cat(value[-1.0], 1).square().sum()) / 2e-5
    torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=1e-6, atol=1e-8)


def chunks_of_rollout(sampler: ChunkSampler, made: CausalDenoiser) -> list[Any]:
    return list(sampler.made(made, Draws(0, [0]), {}, made.frames, lambda *_: [1.0, 0.5], torch.float64))


def test_a_gradient_may_run_through_what_is_remembered_and_through_earlier_calls():
    made = network()
    alone, memory, calls = (
        torch.autograd.grad(sampler.rollout(made, Draws(0, [0]), {}).x0.square().sum(), made.token_in.weight)[0]
        for sampler in (
            ChunkSampler([1.0, 0.5], stop="last"),
            ChunkSampler([1.0, 0.5], stop="last", through_memory=True),
            ChunkSampler([1.0, 0.5], stop="last", gradient_calls=2),
        )
    )
    assert (alone - memory).abs().max() > 1e-4 and (alone - calls).abs().max() > 1e-4


@pytest.mark.parametrize("cache", [WindowCache(2, 1, "slot"), EMASink(2, 2), NoisyCache(2, 1)], ids=str)
@pytest.mark.parametrize("pictures", [False, True])
def test_gradients_with_and_without_checkpoints_are_equal_though_memories_move_on(cache: Any, pictures: bool):
    gradients = []
    for checkpointing in (False, True):
        made: Any = network(gradient_checkpointing=checkpointing)
        if pictures:
            made = ClipDiT(RectifiedFlow(), 6, 1, 4, 2, 16, 2, 2, chunk=2, gradient_checkpointing=checkpointing)
            g = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
        x0 = ChunkSampler([1.0, 0.5], stop="last", cache=cache, length=10).rollout(made, Draws(0, [0]), {}).x0
        x0.square().sum().backward()
        gradients.append([p.grad for p in made.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-7)


def test_a_long_rollout_gives_its_last_frames_and_graphs_of_the_last_ones_alone():
    made = network()
    calls = spied(made)
    sampler = ChunkSampler([1.0], length=12, gradient_frames=4, cache=WindowCache(2))
    rollout = sampler.rollout(made, Draws(0, [0]), {})
    assert rollout.x0.shape == (1, 6, 2) and rollout.trajectory == ()
    recorded = [frames for t, frames, _, graph in calls if graph]
    assert recorded == [(8, 9), (10, 11)] and len(calls) == 6 + 5
    assert all(len(kept) <= 2 for _, _, kept, _ in calls)
    every = list(sampler.made(made, Draws(0, [0]), {}, 12, lambda *_: [1.0], torch.float32))
    assert torch.equal(torch.cat([c.calls[-1].x0 for c in every], 1)[:, 6:], rollout.x0)


def test_context_noise_is_added_to_what_is_remembered():
    made = network()
    calls = spied(made)
    noisy = ChunkSampler([1.0], context_noise=0.1).sample(made, Draws(0, [0]), {})
    assert [t for t, *_ in calls] == [1.0, 0.1, 1.0, 0.1, 1.0]
    clean = ChunkSampler([1.0]).sample(made, Draws(0, [0]), {})
    assert torch.equal(noisy[:, :2], clean[:, :2]) and (noisy - clean).abs().max() > 1e-4


def test_noisy_memories_are_those_of_the_same_call_and_the_sink_is_clean():
    made = network(chunk=1, frames=4)
    calls = spied(made)
    ChunkSampler([1.0, 0.5], stop="last", cache=NoisyCache(1, 1)).rollout(made, Draws(0, [0]), {})
    assert [(t, frames[0], kept) for t, frames, kept, _ in calls] == [
        (1.0, 0, []),
        (0.5, 0, []),
        (0.0, 0, []),
        (1.0, 1, [0]),
        (0.5, 1, [0]),
        (1.0, 2, [0, 1]),
        (0.5, 2, [0, 1]),
        (1.0, 3, [0, 2]),
        (0.5, 3, [0, 2]),
    ]
    stream = Stream(made, NoisyCache(3, 0))
    view = stream.chunk(1)
    x = torch.randn(1, 1, 2, generator=torch.Generator().manual_seed(0))
    for t in (1.0, 0.5):
        view(x, torch.tensor([t], dtype=torch.float64))
    stream.write(view, x, {})
    assert not torch.equal(stream.memories[0][0].layers[0][0], stream.memories[1][0].layers[0][0])
    assert torch.equal(stream.memories[1][0].layers[0][0], view.left[1][0].layers[0][0])


def test_one_call_and_no_sink_remembers_what_a_noisy_context_would():
    """Per-call memories of one call equal those of a context call at the same time on the same input."""
    made = network(chunk=1, frames=3)
    x = torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(0))
    t = torch.full((2,), 0.7, dtype=torch.float64)
    noisy, refreshed = Stream(made, NoisyCache(3, 0)), Stream(made, FullCache(), context_noise=0.7)
    view = noisy.chunk(1)
    view(x, t)
    noisy.write(view, x, {})
    refreshed.write(refreshed.chunk(1), x, {})
    for a, b in zip(noisy.memories[0][0].layers, refreshed.memories[0][0].layers, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_the_flow_of_the_exact_causal_law_leads_to_its_samples():
    """Chunk by chunk by the solver, each given the chunks before it: the law, also of what follows on what."""
    law = LinearGaussianClips(RectifiedFlow(), frames=4, features=2, chunk=2)
    noise = Draws(0, list(range(4000))).normal("noise", (4, 2), torch.float64)
    found = streamed_samples(Heun(), law, noise, {}, 12, FullCache()).flatten(1)
    covariance = found.T @ found / len(found)
    assert float((covariance - law.covariance).abs().max()) < 0.08
    alone = streamed_samples(Heun(), law, noise, {}, 12, WindowCache(0)).flatten(1)
    across = (alone.T @ alone / len(found))[:4, 4:]
    assert float(across.abs().max()) < 0.08 < float(law.covariance[:4, 4:].abs().max())


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="leave exits at same"):
        ChunkSampler(cache=NoisyCache(), exits="each")
    with pytest.raises(UserError, match="first_times must decrease"):
        ChunkSampler(first_times=[0.5, 1.0])
