"""Flow maps: the head that every map here has, and the targets that follow from the identities of an exact map.

``X_{t->s}(x_t)`` is where the probability flow takes ``x_t`` from time ``t`` to ``s``. A student's map is the process's
own jump along its prediction, ``f = alpha_s x0 + sigma_s noise``. In terms of its velocity F (d x_t / dt) that is

    f(x_t, t, s) = A(t, s) x_t + B(t, s) F(x_t, t, s)

| process            | A          | B                       | known as                                         |
|--------------------|------------|-------------------------|--------------------------------------------------|
| RectifiedFlow, EDM | 1          | s - t                   | mean velocity (MeanFlow, Shortcut, 2505.18825)   |
| TrigFlow           | cos(t - s) | -sin(t - s)             | sCM (times sigma_data; 2410.11081)               |
| VP                 | DDIM's coefficients                  | DDIM jump (PCM, TDD, IMM)                        |

The same prediction of x0 and noise gives the same map on every process, so a map can be trained in the coordinates of
one process and sampled in those of another. At s = t the map is the identity and F is the velocity of the flow.

Shapes: samples (B, ...), times and weights (B,). All functions are pure; targets carry whatever graph their inputs do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fastgen.processes import Process
from fastgen.shapes import expand


def jump_weights(process: Process, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """``(A, B)`` of the map ``A x_t + B F`` from ``t`` to ``s``, each (B,)."""
    (alpha, sigma), (alpha_dot, sigma_dot) = process.coefficients(t), process.derivatives(t)
    alpha_s, sigma_s = process.coefficients(s)
    wronskian = alpha * sigma_dot - sigma * alpha_dot
    return (alpha_s * sigma_dot - sigma_s * alpha_dot) / wronskian, (sigma_s * alpha - alpha_s * sigma) / wronskian


@dataclass(frozen=True)
class Head:
    """The weights of the map and their derivatives in one of the times, each (B,)."""

    a: Tensor
    b: Tensor
    a_dot: Tensor
    b_dot: Tensor


def head(process: Process, t: Tensor, s: Tensor, moving: Literal["t", "s"] = "t") -> Head:
    """Weights of the map from ``t`` to ``s`` with derivatives in the ``moving`` time."""

    def weights(time: Tensor) -> tuple[Tensor, Tensor]:
        return jump_weights(process, time, s) if moving == "t" else jump_weights(process, t, time)

    time = t if moving == "t" else s
    result = torch.func.jvp(weights, (time,), (torch.ones_like(time),))
    return Head(*result[0], *result[1])


def eulerian_tangent(
    head: Head, x_t: Tensor, velocity: Tensor, field: Tensor, product: Tensor, warmup: float = 1.0
) -> Tensor:
    """``g = A df/dt``, by which the target of F differs from F: zero if moving the source changes nothing.

    Along the flow, ``df/dt = A_t x_t + A v + B_t F + B dF/dt``. The fixed point in F, relaxed by A^2, is
    ``F* = F - A^2 (df/dt) / B_t``, and B_t = -A where the Wronskian of the process is constant (flow, EDM, Trig). So

    - RectifiedFlow: ``F* = v - (t - s) dF/dt``, MeanFlow (Geng et al. 2025, arXiv 2505.13447, eq. 6);
    - TrigFlow, s = 0: ``g = -cos^2 t (F - v) - cos t sin t (x_t + dF/dt)``, sCM (Lu & Song 2024, 2410.11081, alg. 1).

    Args:
        head: Weights with derivatives in ``t``.
        x_t: Source points, (B, ...).
        velocity: v, the oracle's velocity at ``x_t``, along which ``product`` was taken.
        field: F at ``(x_t, t, s)``.
        product: ``A B dF/dt``, where ``d/dt`` moves ``x_t`` by v and ``t`` by 1 at fixed ``s``. The factor is inside
            so that it can multiply the tangents, which are then small where dF/dt is not.
        warmup: Factor rho in [0, 1] of the terms that a many-step denoiser does not have.
    """
    a, a_dot, b_dot = (expand(w, x_t) for w in (head.a, head.a_dot, head.b_dot))
    return a * (a * velocity + b_dot * field) + warmup * (a * a_dot * x_t + product)


def rcm_tangent(
    head: Head, x_t: Tensor, velocity: Tensor, field: Tensor, product: Tensor, warmup: float = 1.0
) -> Tensor:
    """:func:`eulerian_tangent` on TrigFlow, s = 0, with the warm-up of rCM's code instead of sCM's.

    ``g = -cos t sqrt(1 - rho^2 sin^2 t) (F - v) - (rho cos t sin t x_t + cos t sin t dF/dt)`` (Zheng et al. 2025, arXiv
    2510.08431; github.com/NVlabs/rcm since January 2026). The derivative counts from the first update: at rho = 0 the
    fixed point is a weighted mean velocity along the teacher's flow, with sCM's warm-up it is the teacher. At rho = 1
    both are the same. Arguments as there.
    """
    a, a_dot, b_dot = (expand(w, x_t) for w in (head.a, head.a_dot, head.b_dot))
    factor = (1.0 - warmup**2 * (1.0 - a.square())).clamp(min=0.0).sqrt()
    return factor * (a * velocity + b_dot * field) + warmup * a * a_dot * x_t + product


def lagrangian_target(head: Head, x_t: Tensor, velocity: Tensor, slope: Tensor) -> Tensor:
    """The F for which moving the destination follows the flow: ``A_s x_t + B_s F + B dF/ds = v(f, s)``.

    RectifiedFlow: ``F* = v(f, s) + (t - s) dF/ds`` (Boffi et al. 2025, arXiv 2505.18825).

    Args:
        head: Weights with derivatives in ``s``.
        x_t: Source points, (B, ...).
        velocity: The velocity at the destination, v(f(x_t, t, s), s).
        slope: dF/ds at fixed ``x_t`` and ``t``.
    """
    b, a_dot, b_dot = (expand(w, x_t) for w in (head.b, head.a_dot, head.b_dot))
    return (velocity - a_dot * x_t - b * slope) / b_dot


def two_leg_target(
    process: Process, t: Tensor, r: Tensor, s: Tensor, x_t: Tensor, first: Tensor, second: Tensor
) -> Tensor:
    """The F whose jump from ``t`` to ``s`` lands where two jumps land, from ``t`` to ``r`` and on to ``s``.

    RectifiedFlow and EDM: ``(t - s) F* = (t - r) F(x_t, t, r) + (r - s) F(X, r, s)`` with X the end of the first leg;
    the mean of both for the midpoint (Frans et al. 2024, Shortcut, arXiv 2410.12557).

    Args:
        process: The coordinates.
        t: Start.
        r: Middle.
        s: End; where it equals ``t`` the answer is ``first``.
        x_t: Source points, (B, ...).
        first: F of the first leg.
        second: F of the second leg.
    """
    (a, b), (a1, b1), (a2, b2) = (jump_weights(process, *ends) for ends in ((t, s), (t, r), (r, s)))
    still = b == 0
    inverse = torch.where(still, 0.0, 1.0 / torch.where(still, 1.0, b))
    shares = (a2 * a1 - a) * inverse, torch.where(still, 1.0, a2 * b1 * inverse), b2 * inverse
    offset, one, two = (expand(share, x_t) for share in shares)
    return offset * x_t + one * first + two * second


def normalised(tangent: Tensor, c: float = 0.1, per_element: bool = False) -> Tensor:
    """``g / (|g| + c)`` per sample (sCM, arXiv 2410.11081, section 4.2).

    Args:
        tangent: g, (B, ...).
        c: Norms far below it are not enlarged.
        per_element: Divide by the root mean square instead of the norm, so that ``c`` means the same at every
            resolution.
    """
    norm = torch.linalg.vector_norm(tangent.flatten(1), dim=1)
    if per_element:
        norm = norm / tangent[0].numel() ** 0.5
    return tangent / expand(norm + c, tangent)


def uncertainty_weighted(error: Tensor, log_weight: Tensor) -> Tensor:
    """``exp(w) error - w``, (B,): the weight learns the inverse of the expected error (EDM2, arXiv 2312.02696)."""
    return torch.exp(log_weight) * error - log_weight
