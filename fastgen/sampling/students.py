"""Samplers and rollouts under their former path."""

from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers import (
    AnytimeSampler,
    JumpSampler,
    PhasedSampler,
    RenoiseSampler,
    Sampler,
    TrajectorySampler,
)

__all__ = [
    "AnytimeSampler",
    "JumpSampler",
    "PhasedSampler",
    "RenoiseSampler",
    "Rollout",
    "Sampler",
    "TrajectorySampler",
]
