"""A linear-Gaussian process over frames: clips whose scores are known exactly, those of causal networks too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.causal.attending import Attending, Layers
from fastgen.denoisers.causal.base import CausalDenoiser
from fastgen.denoisers.causal.caches import CachePolicy, FullCache
from fastgen.denoisers.causal.driven import DrivenDenoiser
from fastgen.denoisers.exact.gaussians import LOG_2_PI, ExactDenoiser
from fastgen.errors import UserError
from fastgen.processes import Process
from fastgen.processes.prediction import at_least_float32


class LinearGaussianClips(ExactDenoiser, DrivenDenoiser):
    """Clips (F, D) that turn and forget: ``z_f = rho R z_{f-1} + sqrt(1 - rho^2) std noise``, stationary.

    R turns each pair of numbers by ``angle`` (a last single one stays). Around that is a mean: of the class, on a
    circle of radius ``offset``, and the response to ``condition["drive"]`` (B, F, K), the filter ``r_f = memory r_{f-1}
    + gain u_f`` of its K numbers, which is added to the first K numbers of a frame. So every E[x0 | x_t] is linear: of
    all frames (the bidirectional teacher), of those that a chunk sees (the causal one, with any mask, with clean
    context, and within a stream), each frame at a noise level of its own. In a stream a frame's "key" is what was seen
    of it, its "value" the coefficients of signal and noise. No class is a law of its own with mean 0, not the mixture
    of the classes, whose score would not be linear; guidance leads away from it.

    Args:
        process: How data becomes noise.
        frames: F.
        features: D; 0 for clips (F,) of one number each.
        correlation: rho, of neighbouring frames.
        angle: Turn per frame, in radians.
        std: Standard deviation of every number around the mean.
        num_classes: Number of classes; 0 means unconditional.
        offset: Distance of the classes' means from 0.
        drive: K, 0 for none.
        memory: What is left of the response after a frame.
        gain: Of the response.
        chunk: Frames of a chunk, which see no later chunk; 0 for the bidirectional score.
        first_chunk: Frames of the first chunk; 0 for as many.
        attends: Which earlier frames a chunk sees.

    Raises:
        UserError: If more numbers are driven than a frame has.
    """

    covariance: Tensor
    class_means: Tensor

    def __init__(
        self,
        process: Process,
        frames: int = 12,
        features: int = 2,
        correlation: float = 0.9,
        angle: float = 0.5,
        std: float = 1.0,
        num_classes: int = 0,
        offset: float = 1.5,
        drive: int = 0,
        memory: float = 0.7,
        gain: float = 0.5,
        chunk: int = 0,
        first_chunk: int = 0,
        attends: CachePolicy = FullCache(),
    ) -> None:
        checks.whole(self, frames=frames)
        checks.whole(self, 0, features=features, num_classes=num_classes, drive=drive)
        checks.whole(self, 0, chunk=chunk, first_chunk=first_chunk)
        checks.between(self, 0.0, 1.0, "[)", correlation=correlation, memory=memory)
        checks.finite(self, angle=angle, gain=gain)
        checks.positive(self, std=std)
        checks.not_negative(self, offset=offset)
        super().__init__(process, (frames, features) if features else (frames,), num_classes)
        self.chunk, self.first_chunk, self.attends = chunk, first_chunk, attends
        self.width = max(features, 1)
        if drive > self.width:
            raise UserError(f"LinearGaussianClips: drive {drive} is more than the features {self.width}; lower it.")
        self.drive, self.memory, self.gain = drive, memory, gain
        self.register_buffer("covariance", self.stationary(frames, correlation, angle, std))
        turns = torch.arange(max(num_classes, 1), dtype=torch.float64) * (2.0 * math.pi / max(num_classes, 1))
        means = torch.zeros(max(num_classes, 1) + 1, self.width, dtype=torch.float64)  # the last is that of no class
        if num_classes:
            means[:-1, 0] = offset * turns.cos()
            means[:-1, 1:2] = offset * turns.sin()[:, None]
        self.register_buffer("class_means", means)

    def stationary(self, frames: int, correlation: float, angle: float, std: float) -> Tensor:
        """The covariance (F D, F D) around the mean: ``std^2 rho^|i-j| R^(i-j)``."""
        lag = torch.arange(frames, dtype=torch.float64)[:, None] - torch.arange(frames, dtype=torch.float64)
        blocks = torch.zeros(frames, self.width, frames, self.width, dtype=torch.float64)
        for first in range(0, self.width, 2):
            cosine = (angle * lag).cos() if first + 1 < self.width else torch.ones_like(lag)
            for k in range(first, min(first + 2, self.width)):
                blocks[:, k, :, k] = cosine
            if first + 1 < self.width:
                blocks[:, first, :, first + 1] = -(angle * lag).sin()
                blocks[:, first + 1, :, first] = (angle * lag).sin()
        decay = correlation ** lag.abs()
        size = frames * self.width
        return (std**2 * decay[:, None, :, None] * blocks).reshape(size, size)

    # ------------------------------------------------------------------ the mean

    def mean_of(self, condition: Condition, count: int, like: Tensor) -> Tensor:
        """The mean of each of ``count`` frames, (B, F, D), fp64, for a batch like ``like`` (B, ...)."""
        label = self.labels(condition, like)
        rows = torch.zeros(len(like), dtype=torch.int64, device=like.device) - 1 if label is None else label
        mean = self.class_means[rows][:, None].expand(-1, count, -1)
        if self.drive and "drive" in condition:
            mean = mean + self.response(condition["drive"].double()[:, :count])
        return mean

    def response(self, drive: Tensor) -> Tensor:
        """The response (B, F, D) to what drives the motion, (B, F, K)."""
        state, frames = torch.zeros_like(drive[:, 0]), []
        for f in range(drive.shape[1]):
            state = self.memory * state + self.gain * drive[:, f]
            frames.append(state)
        response = torch.stack(frames, 1)
        return torch.cat([response, response.new_zeros(*response.shape[:2], self.width - self.drive)], 2)

    # ------------------------------------------------------------------ what a denoiser of clips says

    def observed_mean(
        self, y: Tensor, signal: Tensor, noise: Tensor, places: Sequence[int], asked: Sequence[int]
    ) -> Tensor:
        """E of the centred frames ``asked``, given ``y = signal z + noise e`` at the frames ``places``.

        Args:
            y: Centred observations, (B, n, D).
            signal: Coefficients, (B, n).
            noise: Standard deviations, (B, n).
            places: Which frames.
            asked: Which frames are asked for.

        Returns:
            (B, m, D).
        """
        seen, wanted = self.rows(places), self.rows(asked)
        a, s = (c.repeat_interleave(self.width, 1) for c in (signal, noise))
        inner = a[:, :, None] * self.covariance[seen][:, seen] * a[:, None] + torch.diag_embed(s.square())
        solved = torch.linalg.solve(inner, y.flatten(1)[:, :, None])
        across = self.covariance[wanted][:, seen] * a[:, None]
        return (across @ solved).squeeze(2).unflatten(1, (len(asked), self.width))

    def rows(self, places: Sequence[int]) -> Tensor:
        """The rows of the covariance that belong to frames."""
        first = torch.tensor(list(places), device=self.covariance.device)[:, None] * self.width
        return (first + torch.arange(self.width, device=first.device)).flatten()

    def denoise_frames(
        self, x: Tensor, times: Tensor, condition: Condition, seen: Attending, second: Tensor | None
    ) -> tuple[Tensor, Layers]:
        if second is not None:
            raise UserError("LinearGaussianClips has no second time input; it is a denoiser, not a flow map.")
        shape, dtype = x.shape, at_least_float32(x).dtype
        x = x.reshape(len(x), x.shape[1], self.width).double()
        signal, noise = self.process.coefficients(times.double())
        places = [*(int(frame.index) for frame in seen.context), *seen.indices]
        mean = self.mean_of(condition, max(places) + 1, x)
        keys = [frame.layers[0][0][:, 0].double() for frame in seen.context]
        values = [frame.layers[0][1][:, 0].double() for frame in seen.context]
        every = torch.cat([*keys, x], 1)
        both = torch.cat([*values, torch.stack([signal, noise], 2)], 1)
        centred = every - both[:, :, :1] * mean[:, places]
        mask, context = seen.token_mask(1), len(seen.context)
        if mask is None:
            mask = torch.ones(len(seen.indices), len(places), dtype=torch.bool)
        found = torch.zeros_like(x)
        rows: dict[tuple[bool, ...], list[int]] = {tuple(row): [] for row in mask.tolist()}
        for i, row in enumerate(mask.tolist()):
            rows[tuple(row)].append(i)
        for row, asked in rows.items():
            n = [j for j, sees in enumerate(row) if sees]
            at = [seen.indices[i] for i in asked]
            found[:, asked] = self.observed_mean(
                centred[:, n], both[:, n, 0], both[:, n, 1], [places[j] for j in n], at
            )
        found = found + mean[:, places[context:]]
        left = (x[:, None], torch.stack([signal, noise], 2)[:, None])
        return found.reshape(shape).to(dtype), [left]

    # ------------------------------------------------------------------ what a law says

    predict = CausalDenoiser.predict

    def posterior_mean(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        condition = {} if label is None else {"label": label}
        mean = self.mean_of(condition, self.frames, x).flatten(1)
        y, count = (x - alpha * mean).unflatten(1, (self.frames, self.width)), self.frames
        times = (alpha.expand(-1, count), sigma.expand(-1, count))
        return mean + self.observed_mean(y, *times, range(count), range(count)).flatten(1)

    def log_marginal(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        mean = self.mean_of({} if label is None else {"label": label}, self.frames, x).flatten(1)
        variances, axes = torch.linalg.eigh(self.covariance)
        variance = alpha.square() * variances + sigma.square()
        offset = (x - alpha * mean) @ axes
        return -0.5 * (offset.square() / variance + variance.log() + LOG_2_PI).sum(1)

    def draw(self, n: int, generator: torch.Generator | None, label: Tensor | None) -> Tensor:
        noise = torch.randn(n, self.dimension, generator=generator, dtype=torch.float64, device="cpu")
        root = torch.linalg.cholesky(self.covariance.cpu())
        means = self.class_means.cpu()[torch.full((n,), -1) if label is None else label]
        return means.repeat(1, self.frames) + noise @ root.T
