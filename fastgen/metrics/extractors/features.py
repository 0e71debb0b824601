"""Networks that turn images into feature vectors."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor, nn

from fastgen.errors import UserError


def state_digest(module: nn.Module) -> str:
    """sha256 of the names, types, shapes and bytes of a module's state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class FeatureExtractor(ABC):
    """uint8 images (N, C, H, W) to fp32 features (N, D).

    A plain object that owns its network, built when it is first needed, so that neither a config nor a checkpoint
    ever holds its weights.

    Attributes:
        name: Stands in the fingerprint.
        preprocessing: What happens to the pixels before the network; stands in the fingerprint.
        num_features: D.
        logits_show_labels: Whether the classes of :meth:`logits` are the labels of the data, so that an accuracy has a
            meaning.
    """

    name: str
    preprocessing: str
    num_features: int
    logits_show_labels = True

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with its weights."""

    @abstractmethod
    def extract(self, images: Tensor) -> Tensor:
        """Features (N, D) of uint8 ``images`` that are on ``self.device``."""

    @cached_property
    def network(self) -> nn.Module:
        """The network, frozen and in evaluation mode."""
        return self.build().eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, D), fp32.

        Raises:
            UserError: If the extractor is not made for such images, or its features are not finite.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        with torch.autocast(self.device.type, enabled=False):
            features = self.extract(images.to(self.device)).float()
        if not bool(features.isfinite().all()):
            raise UserError(f"The extractor {self.name} gives features that are not finite; check its weights.")
        return features

    def load(self) -> None:
        """Build the network now."""
        _ = self.network

    def logits(self, features: Tensor) -> Tensor | None:
        """Class scores (N, K) that belong to ``features``, ``None`` if the network is no classifier."""
        return None

    def to(self, device: torch.device | str) -> FeatureExtractor:
        """Work on ``device``."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights; large networks take seconds, so it is kept."""
        return state_digest(self.network)

    def fingerprint(self) -> str:
        """Name, preprocessing and sha256 of the weights: numbers with different fingerprints cannot be compared."""
        return f"{self.name}/{self.preprocessing}/sha256:{self.digest[:16]}"
