"""Whom extras train, what they leave to others, and which gradients they record."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from every_method import fit
from torch import Tensor
from toys import CLASSES, build

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras import GAN, DistributionMatching
from fastgen.methods import DMD2, KD, SCM, Distiller
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")
LABEL = torch.arange(4) % CLASSES


def part() -> MicroBatch:
    return MicroBatch(torch.randn(4, 2), {"label": LABEL}, Draws(1, range(4), "train"), raw_condition={"label": LABEL})


def made(cls: type[Distiller], *extras: Any, **kwargs: Any) -> Any:
    method = build(cls, extras=list(extras), **kwargs)
    method.configure_model()
    return method


def test_a_score_term_records_gradients_of_the_student_alone():
    """Its critic learns from samples without a graph; the scores are asked without one."""
    term = DistributionMatching()
    method, modes = made(SCM, term), []
    for network in (method.teacher, term.critic):
        network.register_forward_pre_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    piece = part()
    term.losses(method, "student", piece)
    assert modes == [False, False] and piece.rollouts["student"].x0.requires_grad
    modes.clear()
    term.losses(method, "critic", piece)
    assert modes == [True] and not piece.rollouts["critic"].x0.requires_grad


def test_a_score_term_compares_the_samples_of_the_method():
    method, piece = made(KD, DistributionMatching()), part()
    own = method.student_loss(piece)
    rollout = piece.rollouts["student"]
    (term,) = method.each_extra()
    term.losses(method, "student", piece)
    assert own and piece.score_inputs["critic"].rollout is rollout


def test_every_head_reads_its_own_layer():
    gan = GAN(features="teacher", layer=["blocks.0", "stem"])
    method = made(DMD2, gan)
    seen: dict[str, Tensor] = {}
    for name in ("blocks.0", "stem"):
        layer = method.teacher.get_submodule(name)
        layer.register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output}))
    logits = gan.judge(method, torch.randn(4, 2), torch.full((4,), 2.0, dtype=torch.float64), {"label": LABEL})
    expected = [head(seen[name]) for name, head in zip(("blocks.0", "stem"), gan.heads, strict=True)]
    torch.testing.assert_close(logits, torch.stack(expected, dim=1))


@pytest.mark.parametrize("features", ["critic", "teacher", "own"])
def test_the_discriminator_trains_what_is_its_own(features: Any):
    """Its heads always; the features if they are the critic's (with the critic) or its own."""
    gan = GAN(features=features, weight=0.0, discriminator_weight=1.0)
    method = made(
        DMD2, gan, **{f"{role}_optimizer": partial(torch.optim.SGD, lr=1e-2) for role in ("student", "critic")}
    )
    before = {name: value.clone() for name, value in method.state_dict().items()}
    fit(method, 2)
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("extras.0.heads.") for name in moved)
    assert any(name.startswith("extras.0.own.") for name in moved) == (features == "own")
    assert not any(name.startswith("teacher.") for name in moved)


def test_features_of_the_critic_learn_from_the_discriminator():
    """With a denoising loss of zero weight the critic's features still move."""
    ends = []
    for weight in (0.0, 1.0):
        gan = GAN(features="critic", weight=0.0, discriminator_weight=weight)
        method = made(DMD2, gan, critic_optimizer=partial(torch.optim.SGD, lr=1e-2))
        fit(method, 1)
        ends.append(torch.cat([p.detach().flatten() for p in method.critic.parameters()]))
    assert not torch.allclose(*ends)
