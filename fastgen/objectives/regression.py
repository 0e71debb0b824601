"""Regression of straight paths on given targets, and the targets of it."""

from __future__ import annotations

import math

from torch import Tensor

from fastgen.processes import Prediction


def flow_velocity(prediction: Prediction) -> Tensor:
    """``noise - x0``, the velocity of rectified flow at the same noise level, from a prediction on any process."""
    return prediction.noise - prediction.x0


def pseudo_huber_of_size(gap: Tensor, c: float) -> Tensor:
    """``(sqrt(|gap|^2 + (c D)^2) - c D) / D`` of each sample (B,) of ``gap`` (B, ...), D its number of elements.

    rf++ (Lee et al. 2024, arXiv 2405.20320, and its code); elsewhere the constant grows with the root of D.
    """
    size = gap[0].numel()
    constant = c * size
    return ((gap.square().flatten(1).sum(1) + constant**2).sqrt() - constant) / size


def anneal(kind: str, update: int, updates: int) -> float:
    """How much of an annealed quantity is left at ``update``: 1 at first, 0 (``exponential``: 1/e) at ``updates``.

    SlimFlow's three schedules (Zhu et al. 2024, arXiv 2407.12718, code: ``randomness_schedule``).

    Args:
        kind: ``linear``, ``cosine`` or ``exponential``.
        update: Updates so far.
        updates: Length of the annealing.
    """
    passed = update / updates
    if kind == "exponential":
        return math.exp(-passed)
    passed = min(1.0, passed)
    return 1.0 - passed if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * passed))


def annealed_noise(noise: Tensor, fresh: Tensor, randomness: float) -> Tensor:
    """``sqrt(1 - b^2) noise + b fresh``: from independent noise (b = 1) to that of the pair (b = 0), always normal."""
    return math.sqrt(1.0 - randomness**2) * noise + randomness * fresh
