"""Features without trained weights: for tests of the plumbing, never for claims about quality.

They rate noise worse than a wrong shape (``python -m benchmarks.metric_faults``), so their fingerprints begin with
``plumbing``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.extractors.features import FeatureExtractor
from fastgen.randomness import generator


class Pixels(FeatureExtractor):
    """The pixels themselves, averaged to ``size`` x ``size``.

    Args:
        size: Height and width of the averaged image.
        channels: 3 for RGB, 1 for grey images.
    """

    name = "plumbing_pixels"

    def __init__(self, size: int = 8, channels: int = 3) -> None:
        checks.whole(self, 1, checks.LARGEST_SIDE, size=size)
        checks.whole(self, channels=channels)
        super().__init__()
        self.size = size
        self.channels = channels
        self.preprocessing = f"mean{size}x{size}x{channels}"
        self.num_features = channels * size * size

    def build(self) -> nn.Module:
        """An average pooling without weights."""
        return nn.AdaptiveAvgPool2d(self.size)

    def extract(self, images: Tensor) -> Tensor:
        """Averaged pixels in [0, 1], flattened."""
        if images.shape[1] != self.channels:
            raise UserError(
                f"The pixel features expect {self.channels} channels, got {images.shape[1]}; set their 'channels'."
            )
        return self.network(images.float() / 255).flatten(1)


class RandomConvolutions(FeatureExtractor):
    """Mean and deviation over the image of what three layers of random convolutions make of it.

    Args:
        channels: 3 for RGB, 1 for grey images.
        width: Channels of the last layer; there are twice as many features.
    """

    name = "plumbing_convolutions"
    preprocessing = "none"

    def __init__(self, channels: int = 3, width: int = 64) -> None:
        checks.whole(self, channels=channels)
        checks.whole(self, 4, width=width)
        super().__init__()
        self.channels = channels
        self.widths = (channels, width // 4, width // 2, width)
        self.num_features = 2 * width

    def build(self) -> nn.Module:
        """The same random network on every machine."""
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(self.widths)):
            layer = nn.Conv2d(before, after, 3, stride=1 + (number > 0), padding=1, bias=False)
            weight = torch.randn(layer.weight.shape, generator=generator("random convolutions", number))
            layer.weight.data = weight * (2 / (9 * before)) ** 0.5  # He et al. 2015: keeps the scale through ReLUs
            layers += [layer, nn.ReLU()]
        return nn.Sequential(*layers)

    def extract(self, images: Tensor) -> Tensor:
        """Features (N, 2 width)."""
        if images.shape[1] != self.channels:
            raise UserError(
                f"The random convolutions expect {self.channels} channels, got {images.shape[1]}; set their 'channels'."
            )
        maps = self.network(images.float() / 127.5 - 1).flatten(2)
        return torch.cat([maps.mean(dim=2), maps.std(dim=2, correction=0)], dim=1)
