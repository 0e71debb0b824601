"""How students generate; one sampler per file."""

from fastgen.sampling.clips.buffer import BufferSampler
from fastgen.sampling.clips.chunks import ChunkSampler
from fastgen.sampling.clips.mixed_chunks import MixedChunkSampler
from fastgen.sampling.samplers.anytime import AnytimeSampler
from fastgen.sampling.samplers.assisted import AssistedSampler, BaseFirst, DistillationPlusPlus
from fastgen.sampling.samplers.base import Sampler
from fastgen.sampling.samplers.bespoke import BespokeSampler
from fastgen.sampling.samplers.chain import ChainSampler
from fastgen.sampling.samplers.corrected import CorrectedSampler
from fastgen.sampling.samplers.gamma import GammaSampler
from fastgen.sampling.samplers.grid import GridSampler
from fastgen.sampling.samplers.jump import JumpSampler
from fastgen.sampling.samplers.phased import PhasedSampler
from fastgen.sampling.samplers.policy import PolicySampler
from fastgen.sampling.samplers.random_schedule import RandomScheduleSampler
from fastgen.sampling.samplers.renoise import RenoiseSampler
from fastgen.sampling.samplers.scales import ScaleSampler
from fastgen.sampling.samplers.simulation import BackwardSimulation
from fastgen.sampling.samplers.student import StudentSampler
from fastgen.sampling.samplers.three_jumps import ThreeJumpSampler
from fastgen.sampling.samplers.trajectory import TrajectorySampler

__all__ = [
    "AnytimeSampler",
    "AssistedSampler",
    "BackwardSimulation",
    "BaseFirst",
    "BespokeSampler",
    "BufferSampler",
    "ChainSampler",
    "ChunkSampler",
    "CorrectedSampler",
    "DistillationPlusPlus",
    "GammaSampler",
    "GridSampler",
    "JumpSampler",
    "MixedChunkSampler",
    "PhasedSampler",
    "PolicySampler",
    "RandomScheduleSampler",
    "RenoiseSampler",
    "Sampler",
    "ScaleSampler",
    "StudentSampler",
    "ThreeJumpSampler",
    "TrajectorySampler",
]
