"""Reward Forcing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.causal.caches import EMASink
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.extras.frozen import keep_frozen, rewards_of
from fastgen.extras.reward import RewardModel
from fastgen.methods.video.self_forcing import SelfForcing
from fastgen.objectives.advantages import exponential_weight
from fastgen.sampling.samplers import ChunkSampler


class RewardForcing(SelfForcing):
    """Reward Forcing (Lu et al. 2025, arXiv 2512.04678; github.com/JaydenLyh/Reward-Forcing).

    :class:`SelfForcing` whose student remembers an :class:`EMASink` and whose loss of a clip has the factor
    ``exp(beta r)``, r the reward of the decoded clip (Re-DMD): reward-weighted matching of ``p exp(beta r)``. No
    gradient runs through the reward. The critic's loss has no factor. With ``beta`` 0 it is Self Forcing.

    The paper's reward is VideoAlign's motion quality, normalised, which is not part of fastgen; any other is given by
    its class. Differs: the official rollouts are no longer than what is remembered, so their sink never moves; here it
    moves in training, as the paper has it. ``limit`` is not in the paper, whose factor has no bound.

    Args:
        reward: Builds the reward model; rewards are of order one.
        beta: Strength; the paper's ``1 / beta`` is 1/2.
        limit: Largest ``beta r``.
        sampler: How the student generates: as in Self Forcing, with a window of three frames beside three of the sink.
    """

    judge: RewardModel

    def __init__(
        self,
        reward: Callable[[], RewardModel],
        beta: float = 2.0,
        limit: float = 5.0,
        sampler: ChunkSampler = ChunkSampler(steps=4, cache=EMASink()),
        **kwargs: Any,
    ) -> None:
        checks.not_negative(self, beta=beta, limit=limit)
        super().__init__(sampler=sampler, **kwargs)
        self.factory = reward
        self.beta = beta
        self.limit = limit

    def build_roles(self) -> None:
        super().build_roles()
        keep_frozen(self, "judge", self.factory)

    @torch.no_grad()
    def sample_weight(self, part: MicroBatch) -> Tensor:
        rewards = rewards_of(self.judge, self.codec, self.rollout(part, "student").x0, part.raw_condition)
        self.record("health/reward", rewards.mean())
        return exponential_weight(rewards, self.beta, self.limit)
