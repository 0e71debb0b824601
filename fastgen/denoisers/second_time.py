"""The second time input of flow maps, as an adapter that can be added to a pretrained network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.denoisers.preconditioning import noise_angle, time_features
from fastgen.processes import Process


class SecondTime(nn.Module):
    """Embeds where a jump from ``t`` ends, to be added to the embedding of ``t``.

    It sees ``s`` and the distance ``t - s``, both as noise angles. The output layer starts at zero, so the network
    keeps its function whatever ``s`` is (zero initialisation as in Zhang et al. 2023, arXiv 2302.05543).

    Args:
        width: Width of the embedding it is added to.
        frequencies: Number of frequencies of each of the two inputs.
    """

    def __init__(self, width: int, frequencies: int = 8) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = nn.Linear(4 * frequencies, width)
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to the state that does not change the network."""
        self.hidden.reset_parameters()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, process: Process, t: Tensor, s: Tensor) -> Tensor:
        """Embedding (B, width) of the jump from ``t`` (B,) to ``s`` (B,)."""
        start, end = noise_angle(process, t), noise_angle(process, s)
        features = torch.cat(
            [time_features(end, self.frequencies), time_features(start - end, self.frequencies)], dim=1
        )
        return self.out(F.silu(self.hidden(features.to(self.hidden.weight.dtype))))
