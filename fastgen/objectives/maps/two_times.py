"""What vanishes for a flow map of two times, and targets; ``objectives.flow_maps`` has the head.

Shapes: samples (B, ...), times and weights (B,). All functions are pure; results carry whatever graph their inputs do.
"""

from __future__ import annotations

from torch import Tensor

from fastgen.objectives.flow_maps import Head
from fastgen.shapes import expand


def eulerian_residual(head: Head, x_t: Tensor, velocity: Tensor, field: Tensor, slope: Tensor) -> Tensor:
    """``-df/dt``: minus the motion of a jump's end while its start moves along the flow, in units of velocity.

    ``df/dt = A_t x_t + A v + B_t F + B dF/dt``. RectifiedFlow: ``F - v + (t - s) dF/dt``, which is ``F - v`` where the
    jump goes nowhere (Boffi et al. 2025, arXiv 2505.18825, the Eulerian loss).

    Args:
        head: Weights with derivatives in ``t``.
        x_t: Source points, (B, ...).
        velocity: v, along which the source moves.
        field: F at ``(x_t, t, s)``.
        slope: dF/dt along v at fixed ``s``.
    """
    a, b, a_dot, b_dot = (expand(w, x_t) for w in (head.a, head.b, head.a_dot, head.b_dot))
    return -(a_dot * x_t + a * velocity + b_dot * field + b * slope)
