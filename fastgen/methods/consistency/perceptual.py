"""PerceptualConsistency: discrete consistency whose distance may be one of decoded pictures."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.extras.frozen import beside, keep_frozen
from fastgen.extras.paired_regression import PerceptualDistance
from fastgen.methods.flow_maps.discrete_consistency import DiscreteConsistency


class PerceptualConsistency(DiscreteConsistency, ABC):
    """Compares outputs by a metric of the denoiser's own space, or by a network as people see them.

    Args:
        perceptual: Builds a distance of decoded images in place of ``metric``: ``LPIPS``, with ``size: 224`` in the
            paper of consistency models. Its weights are frozen and enter no checkpoint.
    """

    distance_network: PerceptualDistance

    def __init__(self, perceptual: Callable[[], PerceptualDistance] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.perceptual = perceptual

    def build_roles(self) -> None:
        super().build_roles()
        if self.perceptual is not None:
            keep_frozen(self, "distance_network", self.perceptual)

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        if self.perceptual is None:
            return super().distance(output, target)
        with torch.no_grad():
            seen = self.codec.decode(target).float()
        with torch.autocast(output.device.type, enabled=False):
            return beside(self.distance_network, output)(self.codec.decode(output).float(), seen)
