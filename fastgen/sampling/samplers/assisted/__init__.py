"""Samplers that ask the teacher for some of the calls."""

from fastgen.sampling.samplers.assisted.base import AssistedSampler
from fastgen.sampling.samplers.assisted.base_first import BaseFirst
from fastgen.sampling.samplers.assisted.distillation_plus_plus import DistillationPlusPlus

__all__ = ["AssistedSampler", "BaseFirst", "DistillationPlusPlus"]
