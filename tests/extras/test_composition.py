"""Methods and extras that a seed has put together train and resume bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import GRADIENT_FREE, METHODS, make
from methods.test_contract import equal
from toys import StopAfter, ToyData, trainer

from fastgen.errors import UserError
from fastgen.extras import (
    EL,
    GAN,
    DistributionMatching,
    Extra,
    ImplicitAlignment,
    IntraSegmentGuidance,
    PairedRegression,
    RealStates,
    Reward,
    RewardModel,
    SharedEncoder,
    StatisticsShield,
    TokenMMD,
)
from fastgen.methods import Distiller

pytestmark = pytest.mark.filterwarnings("ignore")
SEED, PAIRS = 20261128, 8


class Left(RewardModel):
    """Smaller first coordinates."""

    def forward(self, samples: torch.Tensor, condition: Any) -> torch.Tensor:
        return -samples[:, 0]


EXTRAS: dict[str, Callable[[], Extra]] = {
    "EL": lambda: EL(networks=1, width=8),
    "GAN": lambda: GAN(features="teacher", optimizer=torch.optim.Adam, role="second_discriminator"),
    "DistributionMatching": lambda: DistributionMatching(critic_updates=1, role="second_critic"),
    "ImplicitAlignment": ImplicitAlignment,
    "IntraSegmentGuidance": IntraSegmentGuidance,
    "PairedRegression": PairedRegression,
    "RealStates": RealStates,
    "Reward": lambda: Reward(Left),
    "SharedEncoder": lambda: SharedEncoder(discriminator_weight=1.0),
    "StatisticsShield": StatisticsShield,
    "TokenMMD": lambda: TokenMMD(features="teacher", layer="blocks.0"),
}
OWN = {"FDistill", "UniInstruct", "RegularisedSCM", *GRADIENT_FREE}
"""Methods whose extras are part of them."""


def composed(cls: type[Distiller], names: tuple[str, ...]) -> Distiller:
    return make(cls, seed=3, extras=[EXTRAS[name]() for name in names])


def fits(cls: type[Distiller], names: tuple[str, ...]) -> bool:
    """Whether the method takes them; what it does not it says in one sentence."""
    try:
        composed(cls, names).configure_model()
    except UserError:
        return False
    return True


def drawn() -> list[tuple[type[Distiller], tuple[str, ...]]]:
    """Methods with one or two extras each, among all that go together."""
    rng, found = random.Random(SEED), []
    methods = [cls for cls in METHODS if cls.__name__ not in OWN]
    while len(found) < PAIRS:
        pair = rng.choice(methods), tuple(rng.sample(sorted(EXTRAS), rng.randint(1, 2)))
        if fits(*pair):
            found.append(pair)
            methods.remove(pair[0])
    return found


@pytest.mark.parametrize(
    ("cls", "names"), drawn(), ids=lambda value: value.__name__ if isinstance(value, type) else "+".join(value)
)
def test_a_method_and_extras_train_and_resume_bit_for_bit(cls: type[Distiller], names: tuple[str, ...], tmp_path: Path):
    path, built = str(tmp_path / "half.ckpt"), composed(cls, names)
    built.configure_model()
    turns, half, count = {role: 0 for role in built.roles()}, 0, 0
    while min(turns.values()) < 2 or count == half:
        for role in built.all_turns(count):
            turns[role] += 1
        count += 1
        half = half or (count if turns["student"] else 0)
        assert count < 60, turns

    def run(ckpt_path: str | None) -> tuple[Distiller, list[Any], int]:
        torch.manual_seed(torch.seed())  # global state must not matter
        method = composed(cls, names)
        loop = trainer(count, StopAfter(count, half, path if ckpt_path is None else None))
        loop.fit(method, ToyData(batch_size=4), ckpt_path=ckpt_path, weights_only=True)
        return method, [optimizer.state_dict() for optimizer in loop.optimizers], loop.global_step

    straight, optimizers, steps = run(None)
    resumed, again, steps_again = run(path)
    assert steps == steps_again >= 2 and equal(optimizers, again)
    assert equal(dict(straight.state_dict()), dict(resumed.state_dict()))
