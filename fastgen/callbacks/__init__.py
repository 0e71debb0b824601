"""Callbacks: everything around training that is not a method."""

from fastgen.callbacks.checkpoint import Checkpoint
from fastgen.callbacks.ema import EMA, ConstantEMA, EMARule, HalfLifeEMA, PowerEMA
from fastgen.callbacks.evaluation import Evaluate
from fastgen.callbacks.grid import SampleGrid
from fastgen.callbacks.health import Health
from fastgen.callbacks.levels import LevelErrors
from fastgen.callbacks.predictions import WriteSamples
from fastgen.callbacks.progress import Progress
from fastgen.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "Checkpoint",
    "ConstantEMA",
    "EMARule",
    "Evaluate",
    "HalfLifeEMA",
    "Health",
    "LevelErrors",
    "PowerEMA",
    "Progress",
    "SampleGrid",
    "Throughput",
    "WriteSamples",
]
