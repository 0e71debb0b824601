"""AMD: rewards of a group decide between matching and guidance, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import ToTheRight, fit
from torch import Tensor
from toys import CLASSES, build, network

from fastgen.conditions import Guidance
from fastgen.distiller.groups import group_advantages
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.methods import AMD, DMD2
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")


class Rank(SimpleNamespace):
    """A trainer that knows what all ranks gather, by rank; by default the only one."""

    def __init__(self, rank: int = 0, world: list[Tensor] | None = None) -> None:
        super().__init__(world=world or [torch.empty(0)], global_rank=rank, global_step=0, training=False)
        self.strategy = SimpleNamespace(all_gather=self.all_gather)

    def all_gather(self, value: Tensor) -> Tensor:
        self.world[self.global_rank] = value
        return torch.stack(self.world)


def made(cls: type[DMD2] = AMD, trainer: Any = None, **kwargs: Any) -> Any:
    roles = {
        name: partial(lambda seed: network(seed).double(), seed)
        for seed, name in enumerate(("teacher", "student", "critic"))
    }
    given = {"reward": ToTheRight} if cls is AMD else {}
    method = build(cls, guidance=Guidance(teacher=3.0), **roles | given | kwargs)
    method.configure_model()
    method.trainer = trainer or Rank()
    return method


def part(first: int = 0, count: int = 8) -> MicroBatch:
    numbers = range(first, first + count)
    label = torch.tensor([number // 4 % CLASSES for number in numbers])
    return MicroBatch(None, {"label": label}, Draws(1, numbers, "train"), raw_condition={"label": label})


def gradients(method: AMD, pieces: list[MicroBatch]) -> list[Tensor]:
    """Of the student's losses, as updates add them up."""
    method.before_update("student", pieces)
    losses = [torch.stack(list(method.student_loss(piece).values())).sum() for piece in pieces]
    return list(torch.autograd.grad(torch.stack(losses).mean(), list(method.student.parameters()), retain_graph=True))


def test_without_advantages_it_is_guided_dmd():
    parameters = {}
    for cls, kwargs in ((AMD, {"strength": 0.0}), (DMD2, {})):
        method = made(cls, **kwargs)
        losses = method.student_loss(part())
        parameters[cls] = torch.autograd.grad(sum(losses.values()), list(method.student.parameters()))
    for one, other in zip(*parameters.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_amd_by_hand():
    """Two groups of four: what is better than its group leans on guidance, what is worse on matching."""
    method, piece = made(), part()
    found = gradients(method, [piece])
    x0 = piece.rollouts["student"].x0
    rewards = method.codec.decode(x0.detach())[:, 0].reshape(2, 4)
    spread = rewards.std(1, correction=0, keepdim=True)
    a = ((rewards - rewards.mean(1, keepdim=True)) / (spread + 1e-3)).clamp(-1, 1).reshape(8, 1)
    assert a.min() < -0.5 and a.max() > 0.5
    both = piece.comparisons["critic"]
    cond, uncond = both.real.cond.x0, both.real.uncond.x0
    real = uncond + 3.0 * (cond - uncond)
    h = (1 - 0.5 * a) * (cond - both.fake.x0) + (1 + 0.5 * a) * 2.0 * (cond - uncond)
    g = -h / (x0 - real).detach().abs().mean(1, keepdim=True)
    expected = torch.autograd.grad((g.detach() * x0).mean(), list(method.student.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_critic_looks_closer_at_what_falls_behind():
    method, piece = made(), part()
    method.before_update("critic", [piece])
    seen: list[Tensor] = []
    original = method.critic_objective
    object.__setattr__(method, "critic_objective", lambda *a: seen.append(a[3]) or original(*a))
    loss = method.critic_loss(piece)["denoising"]
    assert torch.equal(seen[0], 1.0 + 0.5 * (-method.advantage(piece)).clamp(min=0)) and seen[0].max() > 1.2
    method.sharpening = 0.0
    assert not torch.isclose(loss, method.critic_loss(piece)["denoising"])


@pytest.mark.parametrize("cut", [2, 4, 6])
def test_micro_batches_may_cut_groups(cut: int):
    whole, method = made(), made()
    whole.before_update("student", [piece := part()])
    method.before_update("student", pieces := [part(0, cut), part(cut, 8 - cut)])
    cut_up = torch.cat([method.advantage(one) for one in pieces])
    torch.testing.assert_close(cut_up, whole.advantage(piece))


def test_a_group_may_lie_on_two_ranks():
    """The mean of both ranks' gradients is that of one rank with the whole batch."""
    expected = gradients(made(group=8), [part()])
    world = [torch.zeros(4, 2, dtype=torch.float64) for _ in range(2)]
    for _ in range(2):  # the second time each rank has the other's rewards
        both = [gradients(made(group=8, trainer=Rank(rank, world)), [part(4 * rank, 4)]) for rank in range(2)]
    for one, first, second in zip(expected, *both, strict=True):
        torch.testing.assert_close(one, (first + second) / 2, rtol=1e-9, atol=1e-12)


def test_what_cannot_be_weighed_is_refused():
    with pytest.raises(UserError, match=r"set guidance\.teacher to 1"):
        build(AMD, reward=ToTheRight, guidance=Guidance(teacher=0.0))
    with pytest.raises(UserError, match="group must be"):
        build(AMD, reward=ToTheRight, group=1)


def test_copies_belong_to_the_group_of_their_sample():
    method = made(group=2)
    piece = part(0, 4).repeated(3)
    rewards = torch.arange(12.0)
    (found,) = group_advantages(method, [piece], [rewards], floor=0.0)
    torch.testing.assert_close(found[:6], (rewards[:6] - 2.5).double() / rewards[:6].double().std(correction=0))
    torch.testing.assert_close(found[:6], found[6:])


def test_the_data_module_gives_a_condition_as_often_as_a_method_says():
    seen: list[tuple[list[int], Tensor]] = []

    class Watched(AMD):
        def before_update(self, role: str, parts: Sequence[MicroBatch]) -> None:
            super().before_update(role, parts)
            seen.extend((part.raw_condition["label"].tolist(), self.rollout(part, role).x0) for part in parts)

    fit(build(Watched, reward=ToTheRight, guidance=Guidance(teacher=3.0), micro_batches=2), 1, batch_size=8)
    for labels, samples in seen:
        assert labels == labels[:1] * 4 and len(samples[:, 0].unique()) == 4
    assert len(seen) == 4, "two turns of two pieces"
