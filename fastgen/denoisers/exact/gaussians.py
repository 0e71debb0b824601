"""Exact denoisers: data laws whose E[x0 | x_t] has a closed form, on every process.

They are teachers and critics with known truth: the tests of every objective rest on them. With x_t = alpha x0 + sigma
noise, a component N(mu, C) of the data is N(alpha mu, alpha^2 C + sigma^2 I) at time t. All formulas below are written
in alpha and sigma rather than in x_t / alpha, so that they hold at alpha = 0, where E[x0 | x_t] = E[x0].

Sums run in fp64 and their parameters stay fp64 buffers; results have the dtype of ``x_t``, at least fp32. Everything
is differentiable in ``x_t`` and ``t`` to any order.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.networks.labels import LabelledDenoiser
from fastgen.errors import UserError
from fastgen.processes import Process
from fastgen.processes.prediction import at_least_float32

LOG_2_PI = math.log(2.0 * math.pi)


def as_numbers(values: Any) -> Tensor:
    """Numbers from YAML (nested lists) or from code (a tensor) in fp64."""
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")


class ExactDenoiser(LabelledDenoiser):
    """A data law with a closed-form denoiser; laws work on flat samples (B, D).

    Args:
        process: How data becomes noise.
        sample_shape: Shape of one sample without the batch axis.
        num_classes: Number of classes of the law; 0 means unconditional.
    """

    def __init__(self, process: Process, sample_shape: Sequence[int], num_classes: int = 0) -> None:
        super().__init__(process, "x0", tuple(sample_shape), num_classes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactDenoiser:
        """Move with the module but keep fp64: a law rounded to the dtype of a network is another law."""
        originals = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, original in originals.items():
            if getattr(self, name).dtype != original.dtype:
                setattr(self, name, original.to(getattr(self, name).device))
        return self

    @property
    def dimension(self) -> int:
        """Number of values of one sample."""
        return math.prod(self.sample_shape)

    @abstractmethod
    def posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """E[x0 | x] for ``x`` (B, D), ``alpha`` and ``sigma`` (B, 1), ``label`` (B,), all fp64."""

    @abstractmethod
    def log_marginal(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """Log density (B,) of x = alpha x0 + sigma noise; arguments as in :meth:`posterior_mean`."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator | None, label: Tensor | None) -> Tensor:
        """``n`` samples (n, D) of the data in fp64; ``label`` (n,) or ``None``."""

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        if s is not None:
            raise UserError(f"{type(self).__name__} has no second time input; it is a denoiser, not a flow map.")
        alpha, sigma = self.process.coefficients(t.double()[:, None])
        mean = self.posterior_mean(x_t.flatten(1).double(), alpha, sigma, self.labels(condition, x_t))
        return mean.reshape(x_t.shape).to(at_least_float32(x_t).dtype)

    def log_density(self, x_t: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Log density of ``x_t`` at time ``t``, given the condition; shape (B,), fp64."""
        alpha, sigma = self.process.coefficients(t.double()[:, None])
        return self.log_marginal(x_t.flatten(1).double(), alpha, sigma, self.labels(condition or {}, x_t))

    def log_prob(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Log density (B,) of data ``x`` (B, ...), fp64; of the class if ``label`` (B,) is given."""
        one = torch.ones(len(x), 1, dtype=torch.float64, device=x.device)
        label = self.labels({} if label is None else {"label": label}, x)
        return self.log_marginal(x.flatten(1).double(), one, torch.zeros_like(one), label)

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        label: int | Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """``n`` samples of the data, shape (n, ...), drawn on the CPU and moved to the law's device.

        Args:
            n: Number of samples.
            generator: CPU generator.
            label: One class for all, one per sample (n,), or ``None`` for the whole law.
            dtype: dtype of the result.
        """
        if label is not None:
            label = torch.as_tensor(label, dtype=torch.int64, device="cpu").expand(n)
        flat = self.draw(n, generator, label)
        device = next(self.buffers()).device
        return flat.reshape(n, *self.sample_shape).to(device, dtype)


class GaussianDenoiser(ExactDenoiser):
    """One Gaussian N(mean, covariance); everything about it is linear.

    Args:
        process: How data becomes noise.
        mean: Mean; its shape is the shape of a sample.
        covariance: Covariance (D, D) of the flattened sample, symmetric and not negative.

    Raises:
        UserError: If the shapes do not match or the covariance is none.
    """

    mean: Tensor
    covariance: Tensor
    axes: Tensor
    variances: Tensor

    def __init__(
        self, process: Process, mean: Sequence[float] | Tensor, covariance: Sequence[Sequence[float]] | Tensor
    ) -> None:
        checks.finite(self, mean=mean, covariance=covariance)
        mean, covariance = as_numbers(mean), as_numbers(covariance)
        super().__init__(process, mean.shape)
        if covariance.shape != (mean.numel(), mean.numel()) or not torch.allclose(covariance, covariance.T):
            raise UserError(
                f"GaussianDenoiser: covariance must be symmetric of shape ({mean.numel()}, {mean.numel()}), "
                f"got shape {tuple(covariance.shape)}."
            )
        variances, axes = torch.linalg.eigh(covariance)
        if variances.min() < -1e-9 * variances.max().clamp(min=0.0):
            raise UserError(f"GaussianDenoiser: covariance has the negative eigenvalue {float(variances.min()):.3g}.")
        self.register_buffer("mean", mean.flatten())
        self.register_buffer("covariance", covariance)
        self.register_buffer("axes", axes)
        self.register_buffer("variances", variances.clamp(min=0.0))

    def posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        gain = alpha * self.variances / (alpha.square() * self.variances + sigma.square())
        return self.mean + (gain * ((x - alpha * self.mean) @ self.axes)) @ self.axes.T

    def log_marginal(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        variance = alpha.square() * self.variances + sigma.square()
        offset = (x - alpha * self.mean) @ self.axes
        return -0.5 * (offset.square() / variance + variance.log() + LOG_2_PI).sum(1)

    def draw(self, n: int, generator: torch.Generator | None, label: Tensor | None) -> Tensor:
        noise = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64, device="cpu")
        return self.mean.cpu() + (noise * self.variances.sqrt().cpu()) @ self.axes.cpu().T


class MixtureDenoiser(ExactDenoiser):
    """Mixture of isotropic Gaussians in any dimension; memory is N x K + K x D, never N x K x D.

    Args:
        process: How data becomes noise.
        means: Means of the K components, shape (K, ...).
        std: Standard deviation of all components, or of each (K,).
        weights: Probabilities of the components up to a factor.
        classes: Class of each component; ``None`` for no condition. Class y is the mixture of its own components.

    Raises:
        UserError: If a shape does not match or a number is out of range.
    """

    means: Tensor
    variances: Tensor
    mixing: Tensor
    classes: Tensor

    def __init__(
        self,
        process: Process,
        means: Sequence[Sequence[float]] | Tensor,
        std: float | Sequence[float] | Tensor,
        weights: Sequence[float] | Tensor | Literal["equal"] = "equal",
        classes: Sequence[int] | Tensor | None = None,
    ) -> None:
        checks.finite(self, means=means)
        checks.not_negative(self, std=std)
        checks.positive(self, weights=None if isinstance(weights, str) else weights)
        checks.whole(self, 0, classes=classes)
        means = as_numbers(means)
        count = len(means)
        stds = as_numbers(std).expand(count)
        weights = torch.ones_like(means.flatten(1)[:, 0]) if isinstance(weights, str) else as_numbers(weights)
        classes = torch.as_tensor([] if classes is None else list(classes), dtype=torch.int64, device="cpu")
        if weights.shape != (count,):
            raise UserError(f"{type(self).__name__}: give one weight for each of the {count} components.")
        if classes.numel() not in (0, count):
            raise UserError(f"{type(self).__name__}: give one class for each of the {count} components.")
        num_classes = int(classes.max()) + 1 if classes.numel() else 0
        if classes.unique().tolist() != list(range(num_classes)):
            raise UserError(f"{type(self).__name__}: classes must be 0 to {num_classes - 1}, each used.")
        super().__init__(process, means.shape[1:], num_classes)
        self.register_buffer("means", means.flatten(1))
        self.register_buffer("variances", stds.square())
        self.register_buffer("mixing", weights / weights.sum())
        self.register_buffer("classes", classes)

    def _log_mixing(self, label: Tensor | None) -> Tensor:
        """Log probabilities of the components given the label, shape (K,) or (B, K)."""
        log_mixing = self.mixing.log()
        if label is None:
            return log_mixing
        label = label[:, None]
        member = (self.classes == label) | (label == self.num_classes)
        return torch.where(member, log_mixing, -torch.inf).log_softmax(1)

    def _marginal_variance(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """alpha^2 std^2 + sigma^2, shape (B, K)."""
        return alpha.square() * self.variances + sigma.square()

    def _log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """Log p(component, x), shape (B, K)."""
        variance = self._marginal_variance(alpha, sigma)
        distance = (
            x.square().sum(1, keepdim=True)
            - 2.0 * alpha * (x @ self.means.T)
            + alpha.square() * self.means.square().sum(1)
        )
        return self._log_mixing(label) - 0.5 * (distance / variance + self.dimension * (variance.log() + LOG_2_PI))

    def _combine(self, x: Tensor, alpha: Tensor, sigma: Tensor, responsibility: Tensor) -> Tensor:
        """The components' posterior means, averaged with weights ``responsibility`` (B, K)."""
        share = responsibility / self._marginal_variance(alpha, sigma)
        return sigma.square() * (share @ self.means) + alpha * x * (share * self.variances).sum(1, keepdim=True)

    def posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return self._combine(x, alpha, sigma, self._log_joint(x, alpha, sigma, label).softmax(1))

    def log_marginal(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return self._log_joint(x, alpha, sigma, label).logsumexp(1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Probability (B, K) of each component given data ``x`` (B, ...), fp64."""
        one = torch.ones(len(x), 1, dtype=torch.float64, device=x.device)
        return self._log_joint(x.flatten(1).double(), one, torch.zeros_like(one), None).softmax(1)

    def draw(self, n: int, generator: torch.Generator | None, label: Tensor | None) -> Tensor:
        component = self._draw_components(n, generator, label)
        noise = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64, device="cpu")
        return self.means.cpu()[component] + self.variances.sqrt().cpu()[component, None] * noise

    def _draw_components(self, n: int, generator: torch.Generator | None, label: Tensor | None) -> Tensor:
        mixing, classes = self.mixing.cpu(), self.classes.cpu()
        if label is None or self.num_classes == 0:
            return torch.multinomial(mixing, n, replacement=True, generator=generator)
        component = torch.empty_like(label)
        for value in label.unique().tolist():
            rows = label == value
            member = (classes == value) | (value == self.num_classes)
            component[rows] = torch.multinomial(mixing * member, int(rows.sum()), replacement=True, generator=generator)
        return component

    @property
    def mean(self) -> Tensor:
        """Mean of the whole law, shape (D,)."""
        return self.mixing @ self.means

    @property
    def covariance(self) -> Tensor:
        """Covariance of the whole law, shape (D, D)."""
        offset = self.means - self.mean
        within = (self.mixing @ self.variances) * torch.eye(self.dimension, dtype=offset.dtype, device=offset.device)
        return within + (self.mixing[:, None] * offset).T @ offset
