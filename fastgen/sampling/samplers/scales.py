"""ScaleSampler: pictures that grow from call to call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.processes import Prediction, Process
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import call
from fastgen.sampling.samplers.chain import ChainSampler

Shape = tuple[int, ...]


def resized(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Samples (B, ..., H, W) in ``shape``: smaller by areas, larger bicubically. Other samples stay as they are."""
    if x.ndim < 4 or tuple(x.shape[1:]) == tuple(shape):
        return x
    size, maps = tuple(shape[-2:]), x.reshape(-1, *x.shape[-3:])
    options = {"mode": "area"} if size[0] <= x.shape[-2] else {"mode": "bicubic", "align_corners": False}
    return F.interpolate(maps, size, **options).reshape(*x.shape[:-2], *size)


@dataclass(frozen=True)
class ScaleSampler(ChainSampler):
    """Predicts x0, enlarges it and adds fresh noise: every call sees a larger picture than the one before (SwD).

    Points are not resized. No pipeline of diffusers samples so.

    Args:
        times: As in :class:`ChainSampler`.
        level: As there.
        steps: As there.
        scales: Height and width of each call's picture, as shares of the last; both become even numbers.
    """

    steps: int = 4
    scales: Sequence[float] = (0.5, 0.625, 0.75, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.between(self, 0.0, 1.0, "(]", scales=self.scales)
        if list(self.scales) != sorted(self.scales) or self.scales[-1] != 1.0:
            raise UserError(f"ScaleSampler: scales grow and end with 1, got {list(self.scales)}.")
        if len(self.scales) != self.trained_steps():
            raise UserError(
                f"ScaleSampler has {self.trained_steps()} calls, but {len(self.scales)} scales; give one for each."
            )

    def shapes(self, denoiser: Denoiser, count: int) -> list[Shape]:
        """The shapes of the samples of ``count`` calls, which end as the trained ones do."""
        full, missing = denoiser.sample_shape, count - len(self.scales)
        scales = [*[self.scales[0]] * missing, *self.scales[-min(count, len(self.scales)) :]]
        if len(full) < 3:
            return [full] * count
        return [(*full[:-2], *(2 * max(1, round(scale * side / 2)) for side in full[-2:])) for scale in scales]

    def destination(self, process: Process, following: float) -> float:
        return process.t_clean

    def move(self, prediction: Prediction, t: Tensor, draws: Draws, number: int, dtype: torch.dtype) -> Tensor:
        x0 = prediction.x0
        return prediction.process.add_noise(x0, draws.normal(f"noise{number}", x0.shape[1:], dtype), t)

    def calls(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        times: Sequence[float],
        dtype: torch.dtype,
        noise: Tensor | None = None,
        gradient_calls: int = 1,
        shapes: Sequence[Shape] | None = None,
    ) -> Iterator[Prediction]:
        """As of any chain, with samples of ``shapes``; only the last call records a graph."""
        process, shapes = denoiser.process, shapes or self.shapes(denoiser, len(times))
        if noise is not None and tuple(noise.shape[1:]) != shapes[0]:
            raise UserError(
                "ScaleSampler begins with less noise than it is given; pairs of noise and sample need scales 1."
            )
        t = torch.full((len(draws),), times[0], dtype=torch.float64, device=draws.device)
        x_t = process.start(draws.normal("noise", shapes[0], dtype) if noise is None else noise, t)
        for number, (following, shape) in enumerate(zip(times[1:], shapes[1:], strict=True), 1):
            with torch.no_grad():
                made = call(denoiser, x_t, t, condition, process.t_clean)
                t = torch.full_like(t, following)
                x0 = resized(made.x0, shape)
                x_t = process.add_noise(x0, draws.normal(f"noise{number}", shape, dtype), t)
            yield made
        yield call(denoiser, x_t, t, condition, process.t_clean)

    def rollout(
        self,
        denoiser: Denoiser,
        draws: Draws,
        condition: Condition,
        dtype: torch.dtype = torch.float32,
        noise: Tensor | None = None,
    ) -> Rollout:
        """The chain up to a random step that all ranks share, and its x0 in the size of that step."""
        times = self.schedule(denoiser)
        step = draws.shared_integer("step", len(times))
        shapes = self.shapes(denoiser, len(times))[: step + 1]
        calls = tuple(self.calls(denoiser, draws, condition, times[: step + 1], dtype, noise, shapes=shapes))
        return Rollout.of(calls, condition, step)

    def from_data(
        self, denoiser: Denoiser, x0: Tensor, draws: Draws, condition: Condition, dtype: torch.dtype
    ) -> Rollout:
        """One call at a random step that all ranks share, on real samples x0 (B, ...) as the step before leaves them.

        They are made as small as the step before and enlarged again before the noise comes; the first step begins with
        noise alone (Starodubcev et al. 2025, SwD, arXiv 2503.16397).
        """
        process, times = denoiser.process, self.schedule(denoiser)
        step, shapes = draws.shared_integer("step", len(times)), self.shapes(denoiser, len(times))
        t = torch.full((len(draws),), times[step], dtype=torch.float64, device=draws.device)
        noise = draws.normal("noise", shapes[step], dtype)
        if step == 0:
            x_t = process.start(noise, t)
        else:
            x_t = process.add_noise(resized(resized(x0.to(dtype), shapes[step - 1]), shapes[step]), noise, t)
        return Rollout.of((call(denoiser, x_t, t, condition, process.t_clean),), condition, step)
