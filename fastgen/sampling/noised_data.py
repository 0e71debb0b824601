"""One call of a student at noised real samples, instead of at states of its own chain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError
from fastgen.randomness import Draws
from fastgen.sampling.rollout import Rollout
from fastgen.sampling.samplers.base import call
from fastgen.shapes import where_rows


def noised_data(
    denoiser: Denoiser,
    times: Sequence[float],
    x0: Tensor | None,
    draws: Draws,
    condition: Condition,
    dtype: torch.dtype = torch.float32,
) -> Rollout:
    """What the student makes of real samples ``x0`` (B, ...) at one of ``times`` each; at the first of pure noise.

    Where ADD (arXiv 2311.17042), LADD (arXiv 2403.12015) and NVlabs/FastGen train few-step students. The states are not
    those that the student meets when it samples, but need no calls to be made.

    Args:
        denoiser: The student.
        times: The times of its calls, decreasing.
        x0: Real samples.
        draws: Random numbers of the times and of the noise.
        condition: What it is told.
        dtype: Of the noise.

    Raises:
        UserError: If there are no real samples.
    """
    if x0 is None:
        raise UserError(
            "A student that is called at noised data needs them; the data module gives none ('x0' is missing)."
        )
    process, step = denoiser.process, draws.integers("step", len(times))
    t = torch.tensor(times, dtype=torch.float64, device=draws.device)[step]
    noise = draws.normal("noise", denoiser.sample_shape, dtype)
    x_t = where_rows(step == 0, process.start(noise, t), process.add_noise(x0.to(dtype), noise, t))
    prediction = call(denoiser, x_t, t, condition, process.t_clean)
    return Rollout.of((prediction,), condition, step)
