"""Steps of Runge-Kutta methods on a path whose time and scale are chosen, for bespoke solvers.

``x(r) = s(r) x(t(r))`` has the velocity ``u(x, r) = (s' / s) x + t' s v(x / s, t)``; the steps below are those of RK1
and RK2 on it, written in the original variable, so that t(r) and s(r) enter as numbers (Shaul et al. 2023, arXiv
2310.19075; the formulas are a reconstruction whose orders of accuracy the tests observe).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.wrappers.on_process import on_process
from fastgen.denoisers.wrappers.policy import FLOW

Velocity = Callable[[Tensor, Tensor], Tensor]
"""The velocity (B, ...) at a state (B, ...) and a time (a number as a tensor)."""
Node = tuple[Tensor, Tensor, Tensor, Tensor]
"""Time, its derivative in r, scale, its derivative in r; numbers as tensors."""


def flow_velocity_of(denoiser: Denoiser, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """``noise - x0`` that a network on any process predicts at ``x`` (B, ...), a number t in rectified flow."""
    prediction = on_process(denoiser, FLOW)(x, t.detach().expand(len(x)).to(torch.float64), condition)
    return prediction.noise - prediction.x0


def rk1_step(x: Tensor, v: Velocity, node: Node, s_next: Tensor, h: float) -> Tensor:
    """``((s + h s') x + h t' s v(x, t)) / s_next``.

    Args:
        x: The state, (B, ...).
        v: The velocity.
        node: Where the step begins.
        s_next: The scale after the step.
        h: Length of the step in r.
    """
    t, dt, s, ds = node
    return ((s + h * ds) * x + h * dt * s * v(x, t)) / s_next


def rk2_step(x: Tensor, v: Velocity, node: Node, middle: Node, s_next: Tensor, h: float) -> Tensor:
    """The midpoint rule, with the node in the middle of the step."""
    (t, dt, s, ds), (t_m, dt_m, s_m, ds_m) = node, middle
    z = (s + 0.5 * h * ds) * x + 0.5 * h * s * dt * v(x, t)
    return (s * x + h * (ds_m / s_m * z + dt_m * s_m * v(z / s_m, t_m))) / s_next


def rk1_lipschitz(node: Node, s_next: Tensor, h: float, lipschitz: float) -> Tensor:
    """A bound of how much an RK1 step spreads its inputs, for a velocity with the constant ``lipschitz``."""
    _, dt, s, ds = node
    return ((s + h * ds).abs() + h * dt.abs() * s * lipschitz) / s_next


def rk2_lipschitz(node: Node, middle: Node, s_next: Tensor, h: float, lipschitz: float) -> Tensor:
    """The same of an RK2 step: ``(s / s_next)(1 + h L_m (1 + h L / 2))`` with ``L = |s'| / s + |t'| lipschitz``."""
    first, second = (ds.abs() / s + dt.abs() * lipschitz for _, dt, s, ds in (node, middle))
    return node[2] / s_next * (1.0 + h * second * (1.0 + 0.5 * h * first))
