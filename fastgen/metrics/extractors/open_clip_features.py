"""The image tower of any open_clip model as a feature extractor."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.errors import UserError
from fastgen.metrics.extractors.features import FeatureExtractor
from fastgen.metrics.extractors.open_clip_tower import OpenClipTower
from fastgen.metrics.extractors.resize import resize_bicubic_plain, standardise

OpenClipResize = Literal["model", "plain"]


class OpenClipFeatures(FeatureExtractor):
    """Image embeddings of CLIP and its kin.

    CMMD (Jayasumana et al. 2024, arXiv 2401.09603) takes ``model="ViT-L-14-336-quickgelu"``, ``tag="openai"``,
    ``resize="plain"`` and ``normalise=True``.

    Args:
        model: open_clip's name.
        weights: ``.safetensors`` file or PyTorch checkpoint; ``None`` for the published file of ``tag``.
        tag: Published weights whose preprocessing is used; ``None`` only for a model without published weights.
        resize: ``model`` (as open_clip prepares an image for this model), or ``plain`` (both sides, bicubic without
            antialiasing, not rounded, as CMMD's code does it).
        normalise: Scale every embedding to length 1.
    """

    def __init__(
        self,
        model: str = "ViT-L-14-336-quickgelu",
        weights: str | None = None,
        tag: str | None = "openai",
        resize: OpenClipResize = "model",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if resize not in ("model", "plain"):
            raise UserError(f"OpenClipFeatures have no resize '{resize}'; choose 'model' or 'plain'.")
        self.tower = OpenClipTower(model, weights, tag, f"OpenClipFeatures('{model}')")
        self.resize = resize
        self.normalise = normalise
        self.name = f"open_clip_{model}"
        self.preprocessing = (self.tower.resize_mode if resize == "model" else resize) + "-normalised" * normalise
        self.num_features = self.tower.embedding_size

    def build(self) -> nn.Module:
        """The whole model; only its image tower is called."""
        return self.tower.network

    def to(self, device: torch.device | str) -> FeatureExtractor:
        """Work on ``device``."""
        self.tower.to(device)
        return super().to(device)

    def extract(self, images: Tensor) -> Tensor:
        """Embeddings (N, D) of RGB images."""
        if images.shape[1] != 3:
            raise UserError(
                f"OpenClipFeatures read RGB images, got {images.shape[1]} channels; repeat grey ones three times or "
                "give the metrics an extractor that fits the data."
            )
        if self.resize == "plain":
            pixels = resize_bicubic_plain(images, self.tower.image_size)
            embeddings = self.tower.embed_pixels(standardise(pixels, self.tower.mean, self.tower.std))
        else:
            embeddings = self.tower.embed_pixels(self.tower.pixels(images))
        return functional.normalize(embeddings, dim=1) if self.normalise else embeddings
