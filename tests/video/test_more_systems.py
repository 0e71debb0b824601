"""ASD, Video-BLADE and StreamDiT by hand, and what each is without its own part."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from every_method import fit
from torch import Tensor
from torch.nn.functional import softplus
from toys import build, clip_network
from video.test_streaming_systems import ends, equal
from video.test_video_methods import FLOW, FRAMES, assert_same, batch, built, gradients, law, student

from fastgen.conditions import Guidance
from fastgen.denoisers.causal.block_sparse import BlockSparsity, SparseCopy, block_means
from fastgen.errors import UserError
from fastgen.extras import SelfPair
from fastgen.methods import ASD, TDM, BufferedForcing, SelfForcing, StreamDiT, VideoBLADE
from fastgen.randomness import Draws
from fastgen.sampling.clips.buffer import BufferSampler
from fastgen.sampling.samplers import MixedChunkSampler, TrajectorySampler
from fastgen.sampling.solvers import Euler

pytestmark = pytest.mark.filterwarnings("ignore")
MIXED = MixedChunkSampler(steps=2, stop="last", numbers=[1, 2], shares=[0.5, 0.5])


# ---------------------------------------------------------------------- ASD


def test_asd_without_its_pair_is_self_forcing_bit_for_bit():
    plain, same, paired = ends(
        (SelfForcing, {"sampler": MIXED}),
        (ASD, {"sampler": MIXED, "extras": []}),
        (ASD, {"sampler": MIXED, "extras": [SelfPair(steps=2)]}),
    )
    assert equal(plain, same)
    assert any(not torch.equal(plain[n], paired[n]) for n in plain if n.startswith("student."))


def paired() -> tuple[Any, Any, Any]:
    method = built(ASD, sampler=MIXED, critic=partial(student, 0), extras=[SelfPair(weight=0.5, steps=2, penalty=3.0)])
    method.double()
    return method, method.extras[0], batch()


def test_the_pair_by_hand():
    method, extra, part = paired()
    rollout = method.rollout(part, "student")
    number, at = int(rollout.step) + 1, part.draws.scoped("student/pair")
    longer = extra.longer(method, part, "student", number, torch.float64)
    assert longer.step == number and not longer.x0.requires_grad and (longer.x0 - rollout.x0).abs().max() > 1e-2
    found = extra.losses(method, "student", part)["self_pair"]
    x, y = (extra.logits(method, c, rollout, number, at.scoped(n)) for c, n in ((rollout.x0, "x"), (longer.x0, "y")))
    hand = 0.5 * (1.0 + (y.detach() - x).exp()).log().mean()
    torch.testing.assert_close(found, hand)
    assert_same(gradients(found, method.student), gradients(hand, method.student))
    part = batch()
    losses, at = extra.losses(method, "critic", part), part.draws.scoped("critic/pair")
    rollout = method.rollout(part, "critic")
    longer = extra.longer(method, part, "critic", number, torch.float64)
    x, y = (extra.logits(method, c, rollout, number, at.scoped(n)) for c, n in ((rollout.x0, "x"), (longer.x0, "y")))
    torch.testing.assert_close(losses["self_pair"], softplus(x - y).mean())
    moved = 0.0
    for clip, logit, name in ((rollout.x0, x, "x"), (longer.x0, y, "y")):
        change = 0.05 * at.scoped(name).normal("move", clip.shape[1:], clip.dtype)
        moved = moved + (extra.logits(method, clip + change, rollout, number, at.scoped(name)) - logit).square().mean()
    torch.testing.assert_close(losses["self_pair_penalty"], 3.0 * moved)
    found_heads = torch.autograd.grad(
        losses["self_pair"], list(extra.heads[number - 1].parameters()), retain_graph=True
    )
    assert max(float(g.abs().max()) for g in found_heads) > 1e-6
    other = torch.autograd.grad(
        losses["self_pair"], list(extra.heads[2 - number].parameters()), allow_unused=True, retain_graph=True
    )
    assert all(g is None for g in other)
    critic = torch.autograd.grad(losses["self_pair"], list(method.critic.parameters()), allow_unused=True)
    assert all(g is None for g in critic), "the critic learns nothing from the pair"


def test_equal_clips_have_the_logit_0_and_teach_the_heads_nothing(monkeypatch: pytest.MonkeyPatch):
    method, extra, part = paired()
    monkeypatch.setattr(extra, "longer", lambda *_: method.rollout(part, "critic"))
    original = extra.logits
    monkeypatch.setattr(extra, "logits", lambda m, x0, r, n, draws: original(m, x0, r, n, Draws(0, [0, 1, 2, 3])))
    loss = extra.losses(method, "critic", part)["self_pair"]
    torch.testing.assert_close(loss, torch.tensor(2.0).double().log())
    slopes = torch.autograd.grad(loss, list(extra.heads.parameters()), allow_unused=True)
    assert all(g is None or float(g.abs().max()) < 1e-12 for g in slopes)


def test_rollouts_that_stop_early_are_refused():
    method = built(ASD, sampler=MixedChunkSampler(numbers=[2], shares=[1.0]), critic=partial(student, 0))
    with pytest.raises(UserError, match="stop: last"):
        method.extras[0].losses(method, "student", batch())


# ---------------------------------------------------------------------- Video-BLADE


def test_blocks_by_hand():
    h = torch.arange(5.0).reshape(1, 1, 5, 1)
    assert block_means(h, 2).flatten().tolist() == [0.5, 2.5, 4.0]
    q = torch.tensor([[0.0], [2.0]]).reshape(1, 1, 2, 1)
    k = torch.tensor([[0.0], [1.0], [2.0]]).reshape(1, 1, 3, 1)
    # The first query looks everywhere alike (1/3 each); the second with e^0, e^2, e^4: 0.016, 0.117, 0.867.
    seen = BlockSparsity(1, energy=0.9, least=0.1, most=1.0).mask(q, k)[0, 0]
    assert seen[1].tolist() == [False, True, True] and seen[0].all()
    assert BlockSparsity(1, 0.5, 0.1, 1.0).mask(q, k)[0, 0, 1].tolist() == [False, False, True]
    assert BlockSparsity(1, 0.9, 0.1, 0.4).mask(q, k)[0, 0].sum(1).tolist() == [1, 1]
    assert BlockSparsity(1, 0.1, 0.6, 1.0).mask(q, k)[0, 0, 1].tolist() == [False, True, True]
    assert BlockSparsity(2, 0.1, 1.0, 1.0).mask(q, k).all()
    wide = BlockSparsity(2, 0.1, 0.1, 0.5).mask(q.repeat(1, 1, 2, 1), k.repeat(1, 1, 2, 1))
    assert wide.shape == (1, 1, 4, 6) and torch.equal(wide[0, 0, 0], wide[0, 0, 1])


def test_attention_that_sees_all_blocks_is_dense_and_that_of_few_is_not():
    teacher = student(0)
    x, t, label = torch.randn(2, FRAMES, 2).double(), torch.tensor([0.3, 0.8]).double(), {"label": torch.tensor([0, 1])}
    with torch.no_grad():
        dense = teacher(x, t, label).x0
        whole = SparseCopy(BlockSparsity(2, 0.1, 1.0, 1.0)).build(teacher)
        few = SparseCopy(BlockSparsity(1, 0.1, 0.1, 0.2)).build(teacher)
        torch.testing.assert_close(whole(x, t, label).x0, dense, rtol=1e-9, atol=1e-12)
        assert (few(x, t, label).x0 - dense).abs().max() > 1e-3
        assert torch.equal(teacher(x, t, label).x0, dense)


def test_video_blade_that_sees_all_is_tdm():
    states = []
    for cls, made in ((TDM, partial(clip_network, chunk=0)), (VideoBLADE, sparse), (VideoBLADE, blind)):
        method = build(
            cls,
            teacher=partial(clip_network, 5, 0),
            student=partial(made, 3),
            critic=partial(made, 1),
            sampler=TrajectorySampler([20.0, 2.0]),
            guidance=Guidance(),
            **{f"{role}_optimizer": partial(torch.optim.Adam, lr=1e-2) for role in ("student", "critic")},
        )
        fit(method, 4)
        states.append(torch.cat([v.flatten() for n, v in method.state_dict().items() if n.startswith("student.")]))
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-5)
    assert (states[0] - states[2]).abs().max() > 1e-3


def sparse(seed: int, sparsity: BlockSparsity = BlockSparsity(1, 0.5, 1.0, 1.0)) -> Any:
    made = clip_network(seed, 0)
    made.sparsity = sparsity
    return made


def blind(seed: int) -> Any:
    return sparse(seed, BlockSparsity(1, 0.1, 0.1, 0.5))


# ---------------------------------------------------------------------- StreamDiT


def whole(**options: Any) -> Any:
    return law(**options)


def test_a_segment_by_hand():
    """Two chunks of frames (0, 1), (2, 3): the first from 1/2 to data, the second from pure noise to 1/2."""
    four = partial(type(law()), FLOW, 4, 2, num_classes=2)
    method = built(
        StreamDiT,
        teacher=four,
        student=lambda: _of_four(),
        chunk=2,
        micro_steps=3,
        sampler=BufferSampler(2, 2),
        solver=Euler(6, guidance=2.0),
    )
    part = batch()
    part.x0 = part.x0[:, :4]
    found = method.student_loss(part)["segment"]
    noise = part.draws.scoped("student").normal("noise", (4, 2), torch.float64)
    start = torch.tensor([0.5, 0.5, 1.0, 1.0], dtype=torch.float64).expand(4, 4)
    x_t = (1 - start)[:, :, None] * part.x0 + start[:, :, None] * noise
    x, teacher, null = x_t, four(), {"label": torch.full((4,), 2)}
    for k in range(3):
        t = start - k / 6
        cond, none = (teacher(x, t, told).velocity for told in (part.condition, null))
        x = x - (none + 2.0 * (cond - none)) / 6
    v = method.student(x_t, start, part.condition).velocity
    hand = (x_t - 0.5 * v - x).square().mean()
    torch.testing.assert_close(found, hand)
    assert_same(gradients(found, method.student), gradients(hand, method.student))


def _of_four() -> Any:
    from fastgen.denoisers import ClipTransformer

    made = ClipTransformer(FLOW, 4, 2, width=16, depth=2, heads=2, num_classes=2)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=g))
    return made.double()


def test_one_micro_step_of_itself_is_what_the_student_does():
    method = built(
        StreamDiT,
        teacher=_of_four,
        student=_of_four,
        chunk=1,
        micro_steps=1,
        sampler=BufferSampler(1, 4),
        solver=Euler(4),
    )
    part = batch()
    part.x0 = part.x0[:, :4]
    assert float(method.student_loss(part)["segment"]) < 1e-20


def test_a_buffer_by_hand():
    network, calls = _of_four(), []
    original = network.denoise_frames

    def call(x: Tensor, times: Tensor, *rest: Any) -> Any:
        calls.append(times[0].tolist())
        return original(x, times, *rest)

    network.denoise_frames = call
    with torch.no_grad():
        x = BufferSampler(2, 3).sample(network, Draws(0, [0, 1]), {"label": torch.tensor([0, 1])}, dtype=torch.float64)
    thirds = [0.0, 1 / 3, 2 / 3, 1.0]
    expected = [(3, 3), (2, 3), (1, 2), (0, 1)]
    assert len(calls) == 4 and x.shape == (2, 4, 2)
    for row, (a, b) in zip(calls, expected, strict=True):
        assert row == pytest.approx([thirds[a]] * 2 + [thirds[b]] * 2)
    del network.denoise_frames
    noise = Draws(0, [0, 1]).normal("noise", (4, 2), torch.float64)
    with torch.no_grad():
        one = BufferSampler(4, 5).sample(
            network, Draws(0, [0, 1]), {"label": torch.tensor([0, 1])}, dtype=torch.float64
        )
        hand = Euler(5).solve(network, noise, {"label": torch.tensor([0, 1])})
    torch.testing.assert_close(one, hand)


def test_the_buffer_of_a_teacher_by_hand():
    method = built(BufferedForcing, teacher=None, student=_of_four, chunks=[2], condition_dropout=0.0)
    part = batch()
    part.x0 = part.x0[:, :4]
    found = method.student_loss(part)["denoising"]
    draws = part.draws.scoped("student")
    u = torch.stack([draws.scoped(f"chunk{i}").uniform("time") for i in range(2)], 1)
    t = ((torch.arange(2) + u) / 2).repeat_interleave(2, 1)
    assert float(t[:, 0].max()) <= 0.5 <= float(t[:, 2].min())
    noise = draws.normal("noise", (4, 2), torch.float64)
    x_t = (1 - t)[:, :, None] * part.x0 + t[:, :, None] * noise
    hand = (method.student(x_t, t, part.condition).velocity - (noise - part.x0)).square().mean()
    torch.testing.assert_close(found, hand)
    assert_same(gradients(found, method.student), gradients(hand, method.student))


def test_chunks_that_do_not_fill_the_clip_are_refused():
    with pytest.raises(UserError, match="do not fill a clip of 4"):
        built(StreamDiT, student=_of_four, teacher=_of_four, chunk=3, sampler=BufferSampler(3, 2))
    with pytest.raises(UserError, match="say one"):
        built(StreamDiT, student=_of_four, teacher=_of_four, chunk=2, sampler=BufferSampler(1, 2))
