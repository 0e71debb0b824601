"""The centre of large images at full resolution."""

from __future__ import annotations

from torch import Tensor, nn

from fastgen.errors import UserError
from fastgen.metrics.features import FeatureExtractor


class CentreCrop(FeatureExtractor):
    """Another extractor on the central ``size`` x ``size`` pixels, never resized before.

    With Inception at 299 the Fréchet distance becomes the patch FID of Lin et al. 2024 (SDXL-Lightning, arXiv
    2402.13929), which sees the detail that the usual resize hides.

    Args:
        extractor: What reads the crop. Give it the size that it reads without a resize of its own.
        size: Height and width of the crop, in pixels.
    """

    def __init__(self, extractor: FeatureExtractor, size: int = 299) -> None:
        super().__init__()
        self.extractor = extractor
        self.size = size
        self.name = extractor.name
        self.num_features = extractor.num_features

    @property
    def preprocessing(self) -> str:  # type: ignore[override]
        """The crop and what the extractor does with it."""
        return f"crop{self.size}+{self.extractor.preprocessing}"

    def build(self) -> nn.Module:
        """The network of the extractor."""
        return self.extractor.network

    def extract(self, images: Tensor) -> Tensor:
        """Features of the centres.

        Raises:
            UserError: If the images are smaller than the crop.
        """
        height, width = images.shape[2:]
        if min(height, width) < self.size:
            raise UserError(
                f"A centre crop of {self.size} pixels does not fit into images of {height}x{width}; lower its size."
            )
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return self.extractor.extract(images[:, :, top : top + self.size, left : left + self.size].contiguous())

    def logits(self, features: Tensor) -> Tensor | None:
        """Those of the extractor."""
        return self.extractor.logits(features)

    def to(self, device: str) -> CentreCrop:  # type: ignore[override]
        """Work on ``device``."""
        super().to(device)
        self.extractor.to(device)
        return self
