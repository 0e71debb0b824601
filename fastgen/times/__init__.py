"""Laws of times: how often each noise level is visited, and where jumps start and end."""

from fastgen.times.chains import Chain, StudentLevels, WithinChain
from fastgen.times.clamped import ClampedTime
from fastgen.times.composed import AnnealedLevel, LevelOfStep, SharedLevel
from fastgen.times.curricula import Curriculum, DoublingLevels, GrowingGrid, LogNormalGrid, SquareRootLevels
from fastgen.times.easy import EasyTimes
from fastgen.times.jumps import DyadicTimes, GridTimes, JumpLaw, JumpTimes, SortedTimes, ToData
from fastgen.times.levels import (
    FlowTime,
    KarrasLevel,
    LogitNormalTime,
    LogNormalLevel,
    PowerTime,
    TimeLaw,
    UniformStep,
    UniformTime,
    UShapedTime,
    time_of_level,
)
from fastgen.times.nearby import NearbyTimes
from fastgen.times.segments import SegmentTimes, UnionTimes
from fastgen.times.spans import EtaTimes, FromNoise, GapTimes, LadderTimes
from fastgen.times.sub_grid import SubGridTimes
from fastgen.times.truncated import BoundaryLevel, TruncatedLevel

__all__ = [
    "AnnealedLevel",
    "BoundaryLevel",
    "Chain",
    "ClampedTime",
    "Curriculum",
    "DoublingLevels",
    "DyadicTimes",
    "EasyTimes",
    "EtaTimes",
    "FlowTime",
    "FromNoise",
    "GapTimes",
    "GridTimes",
    "GrowingGrid",
    "JumpLaw",
    "JumpTimes",
    "KarrasLevel",
    "LadderTimes",
    "LevelOfStep",
    "LogNormalGrid",
    "LogNormalLevel",
    "LogitNormalTime",
    "NearbyTimes",
    "PowerTime",
    "SegmentTimes",
    "SharedLevel",
    "SortedTimes",
    "SquareRootLevels",
    "StudentLevels",
    "SubGridTimes",
    "TimeLaw",
    "ToData",
    "TruncatedLevel",
    "UShapedTime",
    "UniformStep",
    "UniformTime",
    "UnionTimes",
    "WithinChain",
    "time_of_level",
]
