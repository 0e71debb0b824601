"""Embedding Loss: the student's samples and real ones look alike to random networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen import checks
from fastgen.distiller.extra import Extra
from fastgen.errors import UserError
from fastgen.objectives.mmd import Kernel, LinearKernel, mmd2
from fastgen.randomness import generator

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller
    from fastgen.distiller.micro_batch import MicroBatch

SLOPE = 0.2
LAYER: dict[int, Any] = {1: F.linear, 2: F.conv1d, 3: F.conv2d, 4: F.conv3d}


class EL(Extra):
    """Embedding Loss: ``weight * MMD^2`` of student and data in random embeddings (arXiv 2604.22379).

    The features of many randomly initialised networks have, over the student's samples, the mean that they have over
    real ones. It stands beside any loss (DMD, Diff-Instruct, consistency) and needs neither a critic nor a teacher. The
    paper reports smaller batches and fewer iterations at equal quality.

    Not verified: only the abstract could be read. Derived are the networks (strided convolutions with LeakyReLU, He et
    al.'s weights and torch's biases; their features the means over places of every layer, over the root of their
    number), the kernel, the number of networks, that each iteration draws new ones, and the weight. Sets are
    micro-batches of a rank: the discrepancy of a larger batch is another one.

    Args:
        weight: Factor of the term.
        start: Student update from which it is active.
        networks: How many embeddings an update averages over.
        width: Channels of their layers.
        depth: Number of their layers; each halves the sides of a picture.
        kernel: What the discrepancy compares: means alone, or all of the law.
        unbiased: Leave out the pairs of a sample with itself, which would narrow the student's law in small batches.
        renewed: Draw other networks in every iteration, instead of always the same.
    """

    def __init__(
        self,
        weight: float = 1.0,
        start: int = 0,
        networks: int = 4,
        width: int = 64,
        depth: int = 3,
        kernel: Kernel = LinearKernel(),
        unbiased: bool = True,
        renewed: bool = True,
    ) -> None:
        checks.whole(self, networks=networks, width=width, depth=depth)
        super().__init__(weight, start)
        self.networks = networks
        self.width = width
        self.depth = depth
        self.kernel = kernel
        self.unbiased = unbiased
        self.renewed = renewed

    def losses(self, method: Distiller, role: str, part: MicroBatch) -> dict[str, Tensor]:
        if role != "student":
            return {}
        if part.x0 is None:
            raise UserError("The extra EL needs real samples; the data module gives none ('x0' is missing).")
        x = method.rollout(part, "student").x0
        both = torch.cat([x, part.x0.to(x.dtype)])
        step = part.draws.step if self.renewed else 0
        found = []
        with torch.autocast(x.device.type, enabled=False):
            for number in range(self.networks):
                weights = self.weights(x.shape[1:], (method.seed, step, number), both)
                made, real = embedded(both, weights).chunk(2)
                found.append(mmd2(made, real, self.kernel, self.unbiased))
        return {"embedding": self.weight * torch.stack(found).mean()}

    def weights(self, shape: Sequence[int], keys: Sequence[int], like: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each layer for samples of ``shape``: a function of ``keys``, equal on all ranks."""
        random, made, channels = generator("embedding", *keys), [], shape[0]
        for _ in range(self.depth):
            size = (self.width, channels, *[3] * (len(shape) - 1))
            inputs = math.prod(size[1:])
            spread = math.sqrt(2.0 / (1.0 + SLOPE**2) / inputs)
            weight = spread * torch.randn(size, generator=random, dtype=torch.float64)
            bias = (2.0 * torch.rand(self.width, generator=random, dtype=torch.float64) - 1.0) / math.sqrt(inputs)
            made.append((weight.to(like.device, like.dtype), bias.to(like.device, like.dtype)))
            channels = self.width
        return made


def embedded(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Features (B, D) of samples (B, C, ...): the mean over places of every layer, with norms of order 1."""
    found, layer = [], LAYER[x.ndim - 1]
    options = {} if x.ndim == 2 else {"padding": 1, "stride": 2}
    for weight, bias in layers:
        x = F.leaky_relu(layer(x, weight, bias, **options), SLOPE)
        found.append(x.flatten(2).mean(2) if x.ndim > 2 else x)
    features = torch.cat(found, dim=1)
    return features / math.sqrt(features.shape[1])
