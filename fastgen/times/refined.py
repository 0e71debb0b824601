"""Finer grids that keep the times of a coarse one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from fastgen.processes import Process


def refined(process: Process, times: Sequence[float], parts: int) -> list[float]:
    """Decreasing times with ``parts`` of them for each step, evenly in the position of the levels; ends stay exact."""
    found: list[float] = []
    for start, end in pairwise(times):
        high, low = (float(process.fraction(torch.tensor(time, dtype=torch.float64))) for time in (start, end))
        inner = [high + (low - high) * i / parts for i in range(1, parts)]
        found += [start, *(float(process.position(torch.tensor(u, dtype=torch.float64))) for u in inner)]
    return [*found, times[-1]]
