"""Live Avatar."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import OptimizerCallable

from fastgen.denoisers.causal.caches import NoisyCache
from fastgen.methods.video.self_forcing import SelfForcing
from fastgen.optimizers import BetasAdamW
from fastgen.sampling.samplers import ChunkSampler


class LiveAvatar(SelfForcing):
    """Live Avatar's second stage (Huang et al. 2025, arXiv 2512.04677; github.com/Alibaba-Quark/LiveAvatar).

    :class:`SelfForcing` without the clean call after each chunk: every call of a chunk sees what the same call of the
    four chunks before it left behind, at its own noise level, and one clean first frame (:class:`NoisyCache`). So each
    call can run on a device of its own when it streams. The student begins as :class:`DiffusionForcing` leaves it,
    which knows noisy context; all networks are LoRA of rank 128, alpha 64.

    Training code is not public: the rollout is from the paper, betas and decay are Self Forcing's. The sink is the
    first frame that the student itself made, as in the paper after the first block. Differs: no motion frames.

    Args:
        sampler: How the student generates: four calls per chunk, all remembered as they are.
    """

    def __init__(
        self,
        sampler: ChunkSampler = ChunkSampler(steps=4, cache=NoisyCache()),
        student_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=1e-5, beta1=0.0),
        critic_optimizer: OptimizerCallable = lambda params: BetasAdamW(params, lr=2e-6, beta1=0.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sampler=sampler, student_optimizer=student_optimizer, critic_optimizer=critic_optimizer, **kwargs
        )
