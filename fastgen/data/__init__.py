"""Data modules: what a method is fed with and what its samples are compared with."""

from fastgen.data.base import DistillationData
from fastgen.data.clips import DrivenClips
from fastgen.data.degraded import AddedNoise, Degradation, Degraded, MaskedCentre, Pooled
from fastgen.data.digits import Digits
from fastgen.data.emoji import Emoji, MovingEmoji
from fastgen.data.encoded import Encoded
from fastgen.data.images import ImageFolder
from fastgen.data.mixture import Mixture
from fastgen.data.pairs import Pairs
from fastgen.data.prompts import Prompts

__all__ = [
    "AddedNoise",
    "Degradation",
    "Degraded",
    "Digits",
    "DistillationData",
    "DrivenClips",
    "Emoji",
    "Encoded",
    "ImageFolder",
    "MaskedCentre",
    "Mixture",
    "MovingEmoji",
    "Pairs",
    "Pooled",
    "Prompts",
]
