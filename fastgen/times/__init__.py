"""Laws of times: how often each noise level is visited, and where jumps start and end."""

from fastgen.times.jumps import DyadicTimes, EasyTimes, GridTimes, JumpLaw, JumpTimes, SortedTimes, ToData
from fastgen.times.levels import (
    FlowTime,
    KarrasLevel,
    LogitNormalTime,
    LogNormalLevel,
    TimeLaw,
    UniformStep,
    UniformTime,
    WithinChain,
    time_of_level,
)

__all__ = [
    "DyadicTimes",
    "EasyTimes",
    "FlowTime",
    "GridTimes",
    "JumpLaw",
    "JumpTimes",
    "KarrasLevel",
    "LogNormalLevel",
    "LogitNormalTime",
    "SortedTimes",
    "TimeLaw",
    "ToData",
    "UniformStep",
    "UniformTime",
    "WithinChain",
    "time_of_level",
]
