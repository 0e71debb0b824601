"""Frozen networks of images whose features a discriminator reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.denoisers.wrappers.features import tap


class Backbone(Component, ABC):
    """A network of images, its input and the layers of it that are read.

    Attributes:
        layers: Module paths of the features: maps (B, C, H, W), tokens (B, L, C) or vectors (B, C).
    """

    layers: Sequence[str]

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with its weights."""

    @abstractmethod
    def prepared(self, images: Tensor) -> Tensor:
        """What the network reads of images (B, C, H, W), nominally in [-1, 1]; differentiable."""

    def features(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """The features of ``images`` by layer."""
        with tap(network, self.layers) as found:
            network(self.prepared(images))
        return [found[path] for path in self.layers]


@dataclass(frozen=True)
class TimmBackbone(Backbone):
    """A network of timm, e.g. those of GDD (``vgg16_bn``, ``deit_base_distilled_patch16_224``), DINO, DINOv2, SAM.

    Images are resized bilinearly, as in Projected GAN (Sauer et al. 2021, arXiv 2111.01007), and standardised as the
    network was trained. Grey ones are repeated.

    Args:
        model: timm's name.
        layers: Module paths of the features, e.g. ``blocks.5``.
        weights: ``.pth`` or ``.safetensors`` file; ``None`` to take it from the cache of the Hugging Face hub or
            download it.
        size: Height and width of the network's input.
    """

    model: str
    layers: Sequence[str]
    weights: str | None = None
    size: int = 224

    def __post_init__(self) -> None:
        checks.not_empty(self, layers=self.layers)
        checks.whole(self, 1, checks.LARGEST_SIDE, size=self.size)

    def build(self) -> nn.Module:
        from fastgen.metrics.extractors.timm_features import TimmFeatures

        return TimmFeatures(self.model, self.weights, self.size).build()

    def prepared(self, images: Tensor) -> Tensor:
        import timm

        config: Any = timm.get_pretrained_cfg(self.model)
        mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (config.mean, config.std))
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        resized = F.interpolate(0.5 * (rgb + 1.0), (self.size, self.size), mode="bilinear", align_corners=False)
        return (resized - mean[:, None, None]) / std[:, None, None]


@dataclass(frozen=True)
class DigitsBackbone(Backbone):
    """The digits classifier that ships with fastgen, which needs no download.

    It is also the network of the digits' metrics, so numbers of a student that was trained with it flatter it.

    Args:
        layers: Module paths of its features.
    """

    layers: Sequence[str] = ("body.2", "body.9", "body.12")

    def build(self) -> nn.Module:
        from fastgen.metrics.extractors.classifier import DigitsClassifier

        return DigitsClassifier().build()

    def prepared(self, images: Tensor) -> Tensor:
        return images
