"""UniPC: a predictor of second order, corrected by the next call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.processes import Process, expand
from fastgen.sampling.solvers.multistep import Answer, Multistep, first_order, second_order


@dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC-2 that predicts data, B(h) = e^h - 1 (Zhao et al. 2023, arXiv 2302.04867, algorithms 1, 2, 7, 8;
    github.com/wl-zhao/UniPC).

    The predictor is that of DPM-Solver++(2M). Once the network has answered at the new state, the corrector takes the
    step again with this answer too, and costs no call: together they are of third order, with steps to data and from
    pure noise of first. Equal to diffusers' ``UniPCMultistepScheduler`` (``bh2``, order 2).
    """

    def corrected(self, known: Sequence[Answer], said: Answer) -> Tensor:
        if not known:
            return said.x_t
        before = known[-1]
        x_s, weight = first_order(before, said.alpha, said.sigma)
        forward = said.x0 - before.x0
        if len(known) < 2:  # the answers at both ends, in equal shares
            return x_s + expand(0.5 * weight, x_s) * forward
        # Both differences over a step h, at -r h and h: moments of first and second order of the integral.
        h, earlier = said.level - before.level, known[-2].level - before.level
        r = earlier / h
        h_1 = torch.expm1(-h)
        h_2 = -h_1 / h - 1.0
        h_3 = -h_2 / h - 0.5
        first, second = h_2 / h_1, 2.0 * h_3 / h_1
        back = torch.where(torch.isfinite(r), (second - first) / (r - 1.0), 0.0)
        moved = expand(back / torch.where(torch.isfinite(r), r, 1.0), x_s) * (known[-2].x0 - before.x0)
        return x_s + expand(weight, x_s) * (moved + expand(first - back, x_s) * forward)

    def advance(self, known: Sequence[Answer], process: Process, s: Tensor) -> Tensor:
        return second_order(known, process, s)
