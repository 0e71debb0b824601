"""Regression of straight paths on given targets."""

from __future__ import annotations

from torch import Tensor

from fastgen.processes import Prediction


def flow_velocity(prediction: Prediction) -> Tensor:
    """``noise - x0``, the velocity of rectified flow at the same noise level, from a prediction on any process."""
    return prediction.noise - prediction.x0
