"""More mixtures with exact denoisers: low-rank components, data sets, and named laws of plain numbers for YAML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen import checks, randomness
from fastgen.denoisers.exact.gaussians import MixtureDenoiser, as_numbers
from fastgen.errors import UserError
from fastgen.processes import Process
from fastgen.storage.files import load_tensors


class LowRankMixtureDenoiser(MixtureDenoiser):
    """Mixture whose components also vary in a low-dimensional subspace: covariance U diag(v) U^T + std^2 I.

    The Wiener gain is alpha (v + std^2) / (alpha^2 (v + std^2) + sigma^2) inside the subspace.

    Args:
        process: How data becomes noise.
        means: Means of the K components, shape (K, ...).
        bases: Orthonormal bases U of the subspaces, shape (K, D, R), D the size of a flattened sample.
        subspace_variances: v, shape (K, R).
        std: Standard deviation of the isotropic part of all components, or of each (K,).
        weights: Probabilities of the components up to a factor.
        classes: Class of each component; ``None`` for no condition.

    Raises:
        UserError: If a shape does not match or a basis is not orthonormal.
    """

    bases: Tensor
    subspace_variances: Tensor
    mean_coordinates: Tensor

    def __init__(
        self,
        process: Process,
        means: Sequence[Sequence[float]] | Tensor,
        bases: Sequence[Sequence[Sequence[float]]] | Tensor,
        subspace_variances: Sequence[Sequence[float]] | Tensor,
        std: float | Sequence[float] | Tensor,
        weights: Sequence[float] | Tensor | Literal["equal"] = "equal",
        classes: Sequence[int] | Tensor | None = None,
    ) -> None:
        checks.finite(self, bases=bases)
        checks.not_negative(self, subspace_variances=subspace_variances)
        super().__init__(process, means, std, weights, classes)
        bases, subspace_variances = as_numbers(bases), as_numbers(subspace_variances)
        count, dimension = self.means.shape
        if bases.ndim != 3 or bases.shape[:2] != (count, dimension):
            raise UserError(f"LowRankMixtureDenoiser: bases must have shape ({count}, {dimension}, R).")
        if subspace_variances.shape != (count, bases.shape[2]):
            raise UserError(f"LowRankMixtureDenoiser: subspace_variances must be ({count}, {bases.shape[2]}) numbers.")
        gram = bases.mT @ bases
        if not torch.allclose(gram, torch.eye(bases.shape[2]).to(gram).expand_as(gram), atol=1e-6):
            raise UserError("LowRankMixtureDenoiser: the columns of each basis must be orthonormal.")
        self.register_buffer("bases", bases)
        self.register_buffer("subspace_variances", subspace_variances)
        self.register_buffer("mean_coordinates", torch.einsum("kd,kdr->kr", self.means, bases))

    def _coordinates(self, x: Tensor, alpha: Tensor) -> Tensor:
        """U^T (x - alpha mu) of every component, shape (B, K, R)."""
        return torch.einsum("bd,kdr->bkr", x, self.bases) - alpha[:, :, None] * self.mean_coordinates

    def _log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        outside = self._marginal_variance(alpha, sigma)[:, :, None]
        excess = alpha.square()[:, :, None] * self.subspace_variances
        # log det and inverse of a low-rank update: only the R directions of the subspace change.
        closer = self._coordinates(x, alpha).square() * excess / (outside * (outside + excess))
        return super()._log_joint(x, alpha, sigma, label) + 0.5 * (closer - torch.log1p(excess / outside)).sum(2)

    def _combine(self, x: Tensor, alpha: Tensor, sigma: Tensor, responsibility: Tensor) -> Tensor:
        outside = self._marginal_variance(alpha, sigma)[:, :, None]
        excess = alpha.square()[:, :, None] * self.subspace_variances
        gain = (alpha * sigma.square())[:, :, None] * self.subspace_variances / (outside * (outside + excess))
        inside = responsibility[:, :, None] * gain * self._coordinates(x, alpha)
        return super()._combine(x, alpha, sigma, responsibility) + torch.einsum("bkr,kdr->bd", inside, self.bases)

    def draw(self, n: int, generator: torch.Generator | None, label: Tensor | None) -> Tensor:
        component = self._draw_components(n, generator, label)
        noise = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64, device="cpu")
        inside = torch.randn(n, self.bases.shape[2], generator=generator, dtype=torch.float64, device="cpu")
        inside = inside * self.subspace_variances.sqrt().cpu()[component]
        samples = self.means.cpu()[component] + self.variances.sqrt().cpu()[component, None] * noise
        for k, basis in enumerate(self.bases.cpu()):
            rows = component == k
            samples[rows] += inside[rows] @ basis.T
        return samples

    @property
    def covariance(self) -> Tensor:
        weighted = self.mixing[:, None] * self.subspace_variances
        return super().covariance + torch.einsum("kdr,kr,ker->de", self.bases, weighted, self.bases)


class EmpiricalDenoiser(MixtureDenoiser):
    """The law of a data set: every sample is equally likely, blurred by Gaussian noise of deviation ``std``.

    Args:
        process: How data becomes noise.
        data: Samples (N, ...), or a safetensors file with ``samples`` and maybe ``label``.
        labels: Class of each sample (N,); ``file`` for those of the file, if it has any.
        std: Smoothing. 0 is the bare data set, which has a denoiser but no density.
    """

    def __init__(
        self,
        process: Process,
        data: str | Tensor,
        labels: Sequence[int] | Tensor | Literal["file"] = "file",
        std: float = 0.0,
    ) -> None:
        found = None
        if isinstance(data, str):
            tensors, _ = load_tensors(data)
            if "samples" not in tensors:
                raise UserError(f"'{data}' has no tensor 'samples'; write the data under that name.")
            data, found = tensors["samples"], tensors.get("label")
        super().__init__(process, data, std, classes=found if isinstance(labels, str) else labels)


class RingMixture(MixtureDenoiser):
    """Gaussians in the plane, evenly spaced on a circle around the origin.

    With the defaults neighbours are ten deviations apart, the law has a standard deviation of 0.89 per coordinate, and
    two fresh sets of 2000 samples are 0.146 apart in W2 (mean; single values range from 0.10 to 0.21).

    Args:
        process: How data becomes noise.
        modes: Number of Gaussians.
        radius: Radius of the circle.
        std: Standard deviation of each Gaussian, per coordinate.
        alternate: Give every second Gaussian twice the weight of its neighbours, so that mode frequencies matter.
        num_classes: Number of classes; Gaussian k belongs to class k modulo ``num_classes``. 0 means unconditional.
    """

    def __init__(
        self,
        process: Process,
        modes: int = 8,
        radius: float = 1.25,
        std: float = 0.1,
        alternate: bool = True,
        num_classes: int = 0,
    ) -> None:
        checks.whole(self, modes=modes)
        checks.positive(self, radius=radius)
        checks.whole(self, 0, modes, num_classes=num_classes)
        index = torch.arange(modes, device="cpu")
        angle = index.double() * (2.0 * math.pi / modes)
        means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        weights: Tensor | Literal["equal"] = 1.0 + index % 2 if alternate else "equal"
        super().__init__(process, means, std, weights, index % num_classes if num_classes else None)


class ImageMixture(LowRankMixtureDenoiser):
    """Smooth random images of several kinds, each kind with a few directions of variation.

    Args:
        process: How data becomes noise.
        channels: Channels of an image.
        resolution: Height and width of an image.
        components: Number of kinds.
        rank: Directions of variation per kind.
        contrast: Standard deviation of a kind's mean image over its pixels.
        variation: Standard deviation along each direction of variation, in units of the whole image's norm.
        std: Standard deviation of the white noise on every pixel.
        conditional: Whether the kind is a class label.
        seed: Seed of the images.
    """

    def __init__(
        self,
        process: Process,
        channels: int = 1,
        resolution: int = 16,
        components: int = 10,
        rank: int = 4,
        contrast: float = 0.35,
        variation: float = 1.0,
        std: float = 0.05,
        conditional: bool = False,
        seed: int = 0,
    ) -> None:
        checks.whole(self, channels=channels, resolution=resolution, components=components, rank=rank)
        checks.positive(self, contrast=contrast)
        checks.not_negative(self, variation=variation)
        checks.seed(self, seed=seed)
        g = randomness.generator("ImageMixture", seed)
        shape = (components, (1 + rank) * channels, 4, 4)
        coarse = torch.randn(shape, generator=g, dtype=torch.float64, device="cpu")
        smooth = F.interpolate(coarse, (resolution, resolution), mode="bicubic", align_corners=True)
        smooth = smooth.reshape(components, 1 + rank, -1)
        means = smooth[:, 0]
        means = contrast * means / means.std(1, keepdim=True)
        bases = torch.linalg.qr(smooth[:, 1:].mT).Q
        super().__init__(
            process,
            means.reshape(components, channels, resolution, resolution),
            bases,
            torch.full_like(bases[:, 0], variation**2),
            std,
            classes=range(components) if conditional else None,
        )
