"""Extractors that change the images before another extractor sees them."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.errors import UserError
from fastgen.metrics.extractors.features import FeatureExtractor
from fastgen.metrics.extractors.resize import resize_lanczos


class WrappedExtractor(FeatureExtractor):
    """Another extractor behind :meth:`change`.

    Args:
        extractor: What sees the changed images.
        change_name: Stands in the fingerprint.
    """

    def __init__(self, extractor: FeatureExtractor, change_name: str) -> None:
        super().__init__()
        self.extractor = extractor
        self.change_name = change_name
        self.name = extractor.name
        self.preprocessing = f"{change_name}+{extractor.preprocessing}"
        self.num_features = extractor.num_features
        self.logits_show_labels = extractor.logits_show_labels

    @abstractmethod
    def change(self, images: Tensor) -> Tensor:
        """What becomes of uint8 images (N, C, H, W); uint8 again."""

    def build(self) -> nn.Module:
        """The network of the extractor."""
        return self.extractor.network

    def extract(self, images: Tensor) -> Tensor:
        """Features of the changed images."""
        return self.extractor.extract(self.change(images))

    def logits(self, features: Tensor) -> Tensor | None:
        """Those of the extractor."""
        return self.extractor.logits(features)

    def to(self, device: torch.device | str) -> WrappedExtractor:
        """Work on ``device``."""
        super().to(device)
        self.extractor.to(device)
        return self

    def fingerprint(self) -> str:
        """The change and the fingerprint of the extractor."""
        return f"{self.change_name}+{self.extractor.fingerprint()}"


class CentreCrop(WrappedExtractor):
    """Another extractor on the central ``size`` x ``size`` pixels, never resized before.

    With Inception at 299 the Fréchet distance becomes the patch FID of Lin et al. 2024 (SDXL-Lightning, arXiv
    2402.13929), which sees the detail that the usual resize hides.

    Args:
        extractor: What reads the crop. Give it the size that it reads without a resize of its own.
        size: Height and width of the crop, in pixels.
    """

    def __init__(self, extractor: FeatureExtractor, size: int = 299) -> None:
        checks.whole(self, 1, checks.LARGEST_SIDE, size=size)
        super().__init__(extractor, f"crop{size}")
        self.size = size

    def change(self, images: Tensor) -> Tensor:
        """The centres.

        Raises:
            UserError: If the images are smaller than the crop.
        """
        height, width = images.shape[2:]
        if min(height, width) < self.size:
            raise UserError(
                f"A centre crop of {self.size} pixels does not fit into images of {height}x{width}; lower its size."
            )
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return images[:, :, top : top + self.size, left : left + self.size].contiguous()


class Resized(WrappedExtractor):
    """Another extractor on images that are first scaled to ``size`` by Pillow's Lanczos filter, the centre cut square.

    Text-to-image papers bring samples and references to 256 (or 512) pixels before any metric (DMD2, Yin et al. 2024,
    arXiv 2405.14867, its ``coco_evaluator.py``). Images that have the size already pass unchanged.

    Args:
        extractor: What reads the result.
        size: Height and width of the result, in pixels.
    """

    def __init__(self, extractor: FeatureExtractor, size: int = 256) -> None:
        checks.whole(self, 1, checks.LARGEST_SIDE, size=size)
        super().__init__(extractor, f"lanczos{size}")
        self.size = size

    def change(self, images: Tensor) -> Tensor:
        """The square centres at the size."""
        return resize_lanczos(images, self.size)
