"""The guidance input of students that were distilled at many guidance scales, as an adapter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.denoisers.preconditioning import time_features


class GuidanceInput(nn.Module):
    """Embeds a guidance scale, to be added to the embedding of the time (Meng et al. 2022, arXiv 2210.03142).

    It sees ``log(scale)``; the scale 1 means no guidance. The output layer starts at zero, so the network keeps its
    function. LCM (arXiv 2310.04378) uses sinusoids of ``1000 (scale - 1)`` instead, whose neighbours are unrelated.

    Args:
        width: Width of the embedding it is added to.
        frequencies: Number of frequencies.
    """

    def __init__(self, width: int, frequencies: int = 8) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.hidden = nn.Linear(2 * frequencies, width)
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to the state that does not change the network."""
        self.hidden.reset_parameters()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, scale: Tensor) -> Tensor:
        """Embedding (B, width) of guidance scales (B,)."""
        features = time_features(torch.log(scale.clamp(min=1e-3)), self.frequencies)
        return self.out(F.silu(self.hidden(features.to(self.hidden.weight.dtype))))
