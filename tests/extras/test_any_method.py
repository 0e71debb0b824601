"""A discriminator, a reward and a score term on every method that makes samples, in any order (fp64)."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from every_method import GRADIENT_FREE, METHODS, ORIGINAL, fit, make
from toys import CLASSES, build

from fastgen.distiller.micro_batch import MicroBatch
from fastgen.errors import UserError
from fastgen.extras import GAN, DistributionMatching, Extra, Reward, RewardModel
from fastgen.methods import DMD2, Distiller, ScoreDistiller, SiD
from fastgen.randomness import Draws

pytestmark = pytest.mark.filterwarnings("ignore")
WITHOUT = {*GRADIENT_FREE, "Bespoke", "TeacherTraining", "TSM", "FDistill", "UniInstruct", "RegularisedSCM"}
WITHOUT |= {"BufferedForcing", "DiffusionForcing", "TeacherForcing"}
"""Methods that follow no gradient, make no few-step samples, or have such extras already."""
ADVERSARIAL = {"GDD", "LADD", "ADD", "ADP", "WithoutDistillation"}
"""Methods that are a discriminator."""
LABEL = torch.arange(4) % CLASSES


class Left(RewardModel):
    """Smaller first coordinates."""

    def forward(self, samples: torch.Tensor, condition: Any) -> torch.Tensor:
        return -samples[:, 0]


def part() -> MicroBatch:
    x0 = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    return MicroBatch(x0, {"label": LABEL}, Draws(0, range(4), "train"), raw_condition={"label": LABEL})


def extras(cls: type[Distiller]) -> list[Extra]:
    adversarial = ORIGINAL.get(cls, cls).__name__ in ADVERSARIAL
    own = None if issubclass(cls, ScoreDistiller) or adversarial else torch.optim.Adam
    found: list[Extra] = [Reward(Left, weight=1.0)]
    if not adversarial:
        found.append(GAN(features="teacher", optimizer=own, weight=1.0, discriminator_weight=1.0))
    if own is not None:
        found.append(DistributionMatching(critic_updates=1))
    return found


@pytest.mark.parametrize("cls", [cls for cls in METHODS if ORIGINAL.get(cls, cls).__name__ not in WITHOUT])
def test_extras_work_on_any_method_in_any_order(cls: type[Distiller]):
    """Their losses depend on the same samples, have gradients, and do not depend on where they stand."""
    found: list[dict[str, torch.Tensor]] = []
    for order in list(permutations(extras(cls)))[:: -1 if issubclass(cls, ScoreDistiller) else -2]:
        method = make(cls, extras=list(order))
        method.configure_model()
        piece, losses = part(), {}
        for role in method.roles():
            with method.only(role):
                piece.begin_turn(role)
                for name, value in method.losses(role, piece).items():
                    assert value.requires_grad, (role, name)
                    losses[f"{role}/{name}"] = value.detach()
                piece.end_turn(role)
        assert not piece.rollouts["student"].x0.requires_grad
        found.append(losses)
    first, *others = found
    assert {"student/reward"} < set(first)
    for other in others:
        assert first.keys() == other.keys()
        for name, value in first.items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_a_second_turn_of_a_role_has_samples_of_its_own():
    method = make(SiD)
    method.configure_model()
    piece, seen = part(), []
    for role in ("student", "student", "critic"):
        piece.begin_turn(role)
        method.losses(role, piece)
        seen.append(piece.rollouts[role].x0.detach())
        piece.end_turn(role)
    again = part()
    again.begin_turn("critic")
    method.losses("critic", again)
    assert not torch.isclose(seen[0], seen[1]).any()
    assert torch.equal(seen[2], again.rollouts["critic"].x0), "the turns of other roles do not change a role's own"


def test_two_score_terms_have_critics_of_their_own():
    method = make(DMD2, extras=[DistributionMatching(role="critic_2"), Reward(Left), Reward(Left)])
    method.configure_model()
    assert method.roles() == ("student", "critic", "critic_2")
    piece = part()
    losses = method.losses("student", piece)
    one, two = piece.score_inputs["critic"], piece.score_inputs["critic_2"]
    assert one.rollout is two.rollout and not torch.isclose(one.noise, two.noise).any()
    assert list(losses) == ["match", "match#2", "reward", "reward#2"]


class GANAlone(Distiller):
    """A method without a loss of its own."""


def test_a_role_may_live_from_extras_alone():
    gan = GAN(features="teacher", optimizer=torch.optim.Adam, weight=1.0)
    method = build(GANAlone, extras=[gan])
    metrics = fit(method, 2)
    assert {"student/gan", "discriminator/gan"} <= set(metrics) and metrics["student/grad_norm"] > 0
    with pytest.raises(UserError, match="The student has no loss at student update 0"):
        fit(build(GANAlone, extras=[GAN(features="teacher", optimizer=torch.optim.Adam, start=5)]), 1)
