"""Causal networks of clips: whole clips at once equal chunk after chunk, whatever is remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.denoisers.causal.attending import Frame
from fastgen.denoisers.causal.base import CausalCopy, CausalDenoiser, block_mask, chunks_of, teacher_forcing_mask
from fastgen.denoisers.causal.caches import (
    CachePolicy,
    CompressedCache,
    EMASink,
    FullCache,
    NoisyCache,
    WindowCache,
)
from fastgen.denoisers.causal.linear_gaussian import LinearGaussianClips
from fastgen.denoisers.causal.transformer import ClipDiT, ClipTransformer
from fastgen.denoisers.networks.mlp import MLP
from fastgen.errors import UserError
from fastgen.processes import EDM, Process, RectifiedFlow
from fastgen.sampling.clips.streams import Stream


def stirred(network: CausalDenoiser, scale: float = 0.3) -> CausalDenoiser:
    """A network none of whose weights is zero."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=g))
    return network


def vectors(process: Process = RectifiedFlow(), **options: Any) -> CausalDenoiser:
    return stirred(ClipTransformer(process, frames=7, features=3, width=16, depth=2, heads=2, **options))


def pictures(process: Process = RectifiedFlow(), **options: Any) -> CausalDenoiser:
    made = ClipDiT(process, frames=7, channels=2, resolution=4, patch=2, width=16, depth=2, heads=2, **options)
    return stirred(made)


def law(process: Process = RectifiedFlow(), **options: Any) -> CausalDenoiser:
    return LinearGaussianClips(process, frames=7, features=3, **options)


MAKERS = {"vectors": vectors, "pictures": pictures, "law": law}
every_network = pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))


LEAVING = [WindowCache(2, 1, "slot"), EMASink(2, 2, decay=0.7), CompressedCache(2, 2)]


def clips(network: CausalDenoiser, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy clips, clean ones, and a time for each frame."""
    g = torch.Generator().manual_seed(0)
    noisy, clean = (torch.randn(count, *network.sample_shape, generator=g) for _ in range(2))
    return noisy, clean, torch.rand(count, network.frames, generator=g, dtype=torch.float64) * 0.8 + 0.1


def part(x: Tensor, frames: range, axis: int) -> Tensor:
    return x.narrow(axis, frames.start, len(frames))


def streamed(network: CausalDenoiser, x: Tensor, times: Tensor, policy: CachePolicy, context: Tensor | None) -> Tensor:
    """Chunk after chunk; the context is what each chunk left when it was called, or ``context`` clean."""
    stream, axis, found = Stream(network, policy), 1 + network.frame_axis, []
    for frames in chunks_of(network.frames, network.chunk, network.first_chunk):
        view = stream.chunk(len(frames))
        at = network.per_frame(times[:, frames.start : frames.stop])
        found.append(view(part(x, frames, axis), at).x0)
        if context is None:
            stream.memories[0] = policy.keep(stream.remembered(0), view.left[-1])
            stream.made = frames.stop
        else:
            stream.write(view, part(context, frames, axis), {})
    return torch.cat(found, axis)


def test_chunks():
    assert chunks_of(7, 3) == [range(3), range(3, 6), range(6, 7)]
    assert chunks_of(7, 3, 1) == [range(1), range(1, 4), range(4, 7)]
    assert chunks_of(7, 0) == [range(7)] and chunks_of(2, 3) == [range(2)]


def test_masks_by_hand():
    plain = block_mask([range(1), range(1, 3)], FullCache())
    assert plain.tolist() == [[True, False, False], [True, True, True], [True, True, True]]
    near = block_mask([range(1), range(1, 2), range(2, 3), range(3, 4)], WindowCache(1, sink=1))
    assert near.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1]]
    both = teacher_forcing_mask([range(1), range(1, 2)], FullCache())
    assert both.int().tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


@every_network
@pytest.mark.parametrize("policy", [FullCache(), WindowCache(2), WindowCache(2, 1), WindowCache(0, 3)], ids=str)
@pytest.mark.parametrize("chunk, first", [(3, 0), (2, 1), (1, 0)])
def test_the_whole_clip_equals_chunk_after_chunk(make: Callable, policy: CachePolicy, chunk: int, first: int):
    network = make(chunk=chunk, first_chunk=first, attends=policy)
    noisy, clean, times = clips(network)
    with torch.no_grad():
        forced = network(noisy, network.per_frame(times), {"clean": clean}).x0
        torch.testing.assert_close(forced, streamed(network, noisy, times, policy, clean), rtol=1e-5, atol=1e-5)
        free = network(noisy, network.per_frame(times)).x0
        torch.testing.assert_close(free, streamed(network, noisy, times, policy, None), rtol=1e-5, atol=1e-5)
    assert (free - forced).abs().max() > 1e-2


@every_network
def test_no_frame_sees_a_later_chunk_and_the_clean_copy_not_its_own(make: Callable):
    network = make(chunk=2)
    noisy, clean, times = clips(network)
    axis, at = 1 + network.frame_axis, network.per_frame(times)
    with torch.no_grad():
        before = [network(noisy, at).x0, network(noisy, at, {"clean": clean}).x0]
        part(noisy, range(2, 4), axis).add_(1.0)
        part(clean, range(2, 4), axis).add_(1.0)
        after = [network(noisy, at).x0, network(noisy, at, {"clean": clean}).x0]
        moved = [(b - a).abs() > 1e-6 for a, b in zip(before, after, strict=True)]
        for mode in moved:
            assert not part(mode, range(2), axis).any() and part(mode, range(4, 6), axis).any()
        part(noisy, range(2, 4), axis).sub_(1.0)
        again = network(noisy, at, {"clean": clean}).x0
    torch.testing.assert_close(part(again, range(4), axis), part(before[1], range(4), axis))


@every_network
def test_one_chunk_is_the_bidirectional_network_and_a_time_may_stand_for_all_frames(make: Callable):
    network, one = make(), make(chunk=7)
    noisy, clean, times = clips(network)
    t = times[:, 0]
    with torch.no_grad():
        every = network(noisy, network.per_frame(t[:, None].expand(-1, 7))).x0
        torch.testing.assert_close(network(noisy, t).x0, every)
        torch.testing.assert_close(one(noisy, t).x0, every)
        torch.testing.assert_close(one(noisy, t, {"clean": clean}).x0, every, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [vectors, pictures])
@pytest.mark.parametrize(
    "policy", [WindowCache(2, 1, "slot"), EMASink(2, 2, decay=0.7), CompressedCache(2, 2)], ids=str
)
def test_gradients_of_a_stream_are_those_without_checkpoints(make: Callable, policy: CachePolicy):
    gradients = []
    for checkpointing in (False, True):
        network = make(chunk=2, gradient_checkpointing=checkpointing)
        noisy, clean, times = clips(network)
        streamed(network, noisy, times, policy, clean).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-7)


def test_positions_before_anything_left_are_the_same_whichever_way_they_count():
    network = vectors(chunk=2)
    noisy, clean, times = clips(network)
    with torch.no_grad():
        ways = [
            streamed(network, noisy, times, WindowCache(9, 2, positions), clean)  # type: ignore[arg-type]
            for positions in ("absolute", "slot", "rolling")
        ]
    for way in ways[1:]:
        torch.testing.assert_close(way, ways[0], rtol=1e-5, atol=1e-5)


def test_slot_and_rolling_agree_and_absolute_does_not_once_a_frame_left():
    network = vectors(chunk=2)
    noisy, clean, times = clips(network)
    with torch.no_grad():
        absolute, slot, rolling = (
            streamed(network, noisy, times, WindowCache(2, 1, positions), clean)  # type: ignore[arg-type]
            for positions in ("absolute", "slot", "rolling")
        )
    torch.testing.assert_close(slot, rolling, rtol=1e-5, atol=1e-5)
    assert (absolute - slot).abs().max() > 1e-3


def frame(index: int, value: float) -> Frame:
    return Frame(index, ((torch.full((1, 1, 1, 1), value), torch.full((1, 1, 1, 1), -value)),))


def values(memory: tuple[Frame, ...]) -> list[float]:
    assert all(float(f.layers[0][0]) == pytest.approx(-float(f.layers[0][1])) for f in memory)
    return [float(f.layers[0][0]) for f in memory]


def kept(policy: CachePolicy, count: int, chunk: int = 1) -> tuple[Frame, ...]:
    memory: tuple[Frame, ...] = ()
    for first in range(0, count, chunk):
        memory = policy.keep(memory, tuple(frame(i, float(i + 1)) for i in range(first, min(first + chunk, count))))
    return memory


def test_what_is_kept_by_hand():
    assert values(kept(FullCache(), 4)) == [1, 2, 3, 4]
    assert values(kept(WindowCache(2), 4)) == [3, 4] and values(kept(WindowCache(0), 4)) == []
    assert values(kept(WindowCache(2, 1), 5)) == [1, 4, 5] and values(kept(WindowCache(9, 1), 2)) == [1, 2]
    # Frames 2 and 3 leave into slots 0 and 1: 0.75 * 1 + 0.25 * 3, 0.75 * 2 + 0.25 * 4.
    assert values(kept(EMASink(2, 2, decay=0.75), 6, 2)) == pytest.approx([1.5, 2.5, 5, 6])
    assert values(kept(EMASink(2, 2, decay=0.75), 8, 2)) == pytest.approx([2.375, 3.375, 7, 8])
    memory = kept(CompressedCache(2, 3), 8)
    assert values(memory) == pytest.approx([2, 5, 7, 8]) and [f.index for f in memory] == [1, 4, 6, 7]
    assert values(kept(CompressedCache(2, 1), 5)) == [1, 2, 3, 4, 5]


def test_an_ema_sink_that_never_changes_is_a_static_sink():
    network = vectors(chunk=2)
    noisy, clean, times = clips(network)
    with torch.no_grad():
        moving, static = (
            streamed(network, noisy, times, policy, clean)
            for policy in (EMASink(2, 2, decay=1.0), WindowCache(2, 2, "slot"))
        )
        other = streamed(network, noisy, times, EMASink(2, 2, decay=0.9), clean)
    assert torch.equal(moving, static)
    assert (other - static).abs().max() > 1e-3


def test_positions_by_hand():
    memory = kept(WindowCache(2, 2), 7)
    for policy, places in (
        (WindowCache(2, 2), ([0, 1, 5, 6], [7, 8])),
        (WindowCache(2, 2, "slot"), ([0, 1, 2, 3], [4, 5])),
        (WindowCache(2, 2, "rolling"), ([3, 4, 5, 6], [7, 8])),
        (NoisyCache(2, 2), ([3, 4, 5, 6], [7, 8])),
    ):
        where = policy.places(memory, [7, 8])
        assert ([*where[0].tolist()], [*where[1].tolist()]) == places


def test_what_has_no_mask_and_what_is_no_clip_is_refused():
    network = vectors(chunk=2, attends=EMASink())
    with pytest.raises(UserError, match="EMASink has no mask"):
        network(*clips(network)[::2])
    with pytest.raises(UserError, match="MLP is no causal network"):
        Stream(MLP(EDM()), FullCache()).chunk(1)


def test_a_causal_copy_has_the_weights_of_its_teacher_and_its_own_mask():
    teacher = vectors()
    student = CausalCopy(chunk=2, attends=WindowCache(2)).build(teacher)
    assert isinstance(student, CausalDenoiser) and student.chunk == 2 and teacher.chunk == 0
    own = dict(student.named_parameters())
    assert all(torch.equal(p, own[n]) for n, p in teacher.named_parameters())
    noisy, _, times = clips(teacher)
    whole = vectors(chunk=2, attends=WindowCache(2))(noisy, times).x0
    torch.testing.assert_close(student(noisy, times).x0, whole)


# ---------------------------------------------------------------------- the truth


def dense(network: LinearGaussianClips, x: Tensor, times: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
    """E[x0 | what each frame sees], frame by frame from the joint Gaussian of clean and noisy frames."""
    size, width = network.frames, network.width
    found = torch.zeros(len(x), size, width, dtype=torch.float64)
    for b in range(len(x)):
        a, s = network.process.coefficients(times[b])
        for f in range(size):
            seen = [g for g in range(size) if mask[f, g]]
            rows = [g * width + k for g in seen for k in range(width)]
            own = [f * width + k for k in range(width)]
            scale = torch.tensor([float(a[g]) for g in seen for _ in range(width)], dtype=torch.float64)
            noise = torch.tensor([float(s[g]) for g in seen for _ in range(width)], dtype=torch.float64)
            inner = torch.diag(scale) @ network.covariance[rows][:, rows] @ torch.diag(scale) + torch.diag(noise**2)
            y = x[b].double().flatten()[rows] - scale * mean[b].flatten()[rows]
            gain = network.covariance[own][:, rows] @ torch.diag(scale) @ torch.linalg.inv(inner)
            found[b, f] = mean[b, f] + gain @ y
    return found


@pytest.mark.parametrize("process", [RectifiedFlow(), EDM()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("features", [3, 2, 1])
def test_the_law_says_the_posterior_mean(process: Process, features: int):
    options: dict[str, Any] = {"frames": 5, "features": features, "num_classes": 3, "drive": 1}
    network = LinearGaussianClips(process, chunk=2, **options)
    noisy, _, times = clips(network)
    condition = {"label": torch.tensor([0, 2]), "drive": torch.randn(2, 5, 1, dtype=torch.float64)}
    mean = network.mean_of(condition, 5, noisy)
    found = network(noisy.double(), times, condition).x0
    torch.testing.assert_close(found, dense(network, noisy, times, block_mask(chunks_of(5, 2), FullCache()), mean))
    both = LinearGaussianClips(process, **options)
    every = torch.ones(5, 5, dtype=torch.bool)
    torch.testing.assert_close(both(noisy.double(), times, condition).x0, dense(both, noisy, times, every, mean))


def test_the_law_by_hand():
    """Two frames of one number, correlation 1/2: what the neighbour says is in the gain (1, 1/2) / (1 + sigma^2)."""
    network = LinearGaussianClips(EDM(), frames=2, features=0, correlation=0.5, std=1.0)
    torch.testing.assert_close(network.covariance, torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64))
    x, times = torch.tensor([[0.8, -0.4]]).double(), torch.tensor([[1.0, 1e4]]).double()
    found = network(x, times).x0
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.2]]).double(), rtol=1e-6, atol=1e-6)
    law = LinearGaussianClips(EDM(), frames=4, features=0, drive=1, memory=0.5, gain=2.0)
    response = law.response(torch.tensor([[[1.0], [0.0], [1.0], [0.0]]]))
    assert response.flatten().tolist() == [2.0, 1.0, 2.5, 1.25]


def test_samples_of_the_law_have_its_moments_and_densities():
    network = LinearGaussianClips(RectifiedFlow(), frames=4, features=2, num_classes=2)
    label = torch.arange(20000) % 2
    x = network.sample(20000, torch.Generator().manual_seed(0), label, torch.float64)
    centred = (x - network.mean_of({"label": label}, 4, x)).flatten(1)
    assert float(centred.mean(0).abs().max()) < 0.03
    assert float((centred.T @ centred / len(x) - network.covariance).abs().max()) < 0.05
    mean = network.mean_of({"label": label[:3]}, 4, x[:3]).flatten(1)
    normal = torch.distributions.MultivariateNormal(mean, network.covariance)
    torch.testing.assert_close(network.log_prob(x[:3], label[:3]), normal.log_prob(x[:3].flatten(1)))
    t, y = torch.tensor([0.3, 0.6, 0.9]).double(), x[:3].clone().requires_grad_()
    (score,) = torch.autograd.grad(network.log_density(y, t, {"label": label[:3]}).sum(), y)
    torch.testing.assert_close(network(x[:3], t, {"label": label[:3]}).score, score)
