"""The classifier of the digits that ships with fastgen: features, and the class that a sample shows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastgen.denoisers.base import load_strictly
from fastgen.errors import UserError
from fastgen.metrics.extractors.features import FeatureExtractor
from fastgen.storage.files import load_tensors, resolve, sha256

SHIPPED = "asset:digits_classifier.safetensors"
SHIPPED_SHA256 = "89977014683759e0d0cdf111b8b882bd5f7cba1d9625b8643fe1d2e373b5a45b"
"""Digest of the shipped file. Numbers of different files cannot be compared, so a new file needs a new digest here."""


class DigitsNetwork(nn.Module):
    """A small convolutional classifier of 8x8 grey images: 110 thousand parameters, 64 features, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.SiLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 64),
        )
        self.head = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, 64) of images (N, 1, 8, 8) in [-1, 1]."""
        return functional.silu(self.body(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 8, 8) in [-1, 1]."""
        return self.head(self.features(images))


class DigitsClassifier(FeatureExtractor):
    """Features and classes of 8x8 grey digits, without a download.

    Written by ``python -m benchmarks.train_digits_classifier``, which sees the training images only.

    Args:
        weights: safetensors file of a :class:`DigitsNetwork`; the default ships with fastgen and is checked against
            its sha256.
    """

    name = "digits_classifier"
    preprocessing = "8x8grey"
    num_features = 64

    def __init__(self, weights: str = SHIPPED) -> None:
        super().__init__()
        self.weights = weights

    def build(self) -> nn.Module:
        """The trained network."""
        if self.weights == SHIPPED and (found := sha256(resolve(self.weights))) != SHIPPED_SHA256:
            raise UserError(
                f"'{self.weights}' has sha256 {found[:16]}..., not {SHIPPED_SHA256[:16]}...; install fastgen again."
            )
        network = DigitsNetwork()
        tensors, _ = load_tensors(self.weights)
        load_strictly(network, tensors, self.weights)
        return network

    def extract(self, images: Tensor) -> Tensor:
        """Penultimate features (N, 64)."""
        if images.shape[1:] != (1, 8, 8):
            raise UserError(
                f"The digits classifier reads grey 8x8 images, got {tuple(images.shape[1:])}; "
                "give the metrics an extractor that fits the data."
            )
        network = self.network
        assert isinstance(network, DigitsNetwork)
        return network.features(images.float() / 127.5 - 1)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Logits (N, 10)."""
        network = self.network
        assert isinstance(network, DigitsNetwork)
        return network.head(features.to(self.device))
