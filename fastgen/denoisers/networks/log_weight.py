"""A learned weight of a loss as a function of the noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgen.denoisers.networks.preconditioning import noise_angle, time_features
from fastgen.processes import Process


class LogWeight(nn.Module):
    """A learned logarithmic loss weight as a function of the noise level, or of several; starts at 0.

    Args:
        times: Number of noise levels.
        features: Number of frequencies of the time features.
    """

    def __init__(self, times: int = 1, features: int = 16) -> None:
        super().__init__()
        self.features = features
        self.linear = nn.Linear(2 * features * times, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, process: Process, *times: Tensor) -> Tensor:
        """The logarithm w (B,) at times, each (B,)."""
        features = torch.cat([time_features(noise_angle(process, t), self.features) for t in times], dim=1)
        return self.linear(features.to(self.linear.weight.dtype)).squeeze(1).float()
