"""Noising processes and sampling grids as the scheduler of a diffusers pipeline describes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.processes import VP, RectifiedFlow, betas_of

Spacing = Literal["leading", "trailing", "linspace"]


def process_from_scheduler(config: Mapping[str, Any], source: str, kind: type[VP] = VP) -> VP:
    """The noising process that a diffusers scheduler's betas describe.

    Args:
        config: Content of ``scheduler_config.json``.
        source: Name of the pipeline, for messages.
        kind: Class of the process.

    Raises:
        UserError: If the scheduler has no betas, an unknown schedule, or noise as the prediction at no signal.
    """
    trained = config.get("trained_betas")
    missing = [k for k in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps") if k not in config]
    if trained is None and (missing or config["beta_schedule"] not in ("scaled_linear", "linear")):
        found = f"no {', '.join(missing)}" if missing else f"beta_schedule '{config['beta_schedule']}'"
        raise UserError(
            f"The scheduler of '{source}' has {found}; "
            "the schedules scaled_linear and linear and the list trained_betas are supported."
        )
    try:
        if trained is not None:
            betas = torch.as_tensor(trained, dtype=torch.float64)
        else:
            numbers = config["beta_start"], config["beta_end"], config["num_train_timesteps"]
            betas = betas_of(*numbers, config["beta_schedule"])
        if config.get("rescale_betas_zero_snr") or float(betas.max()) >= 1.0:
            if config.get("prediction_type", "epsilon") == "epsilon":
                raise UserError(
                    f"The scheduler of '{source}' has zero terminal SNR (arXiv 2305.08891), where predicted noise says "
                    "nothing about the sample; such a teacher predicts v: mend prediction_type."
                )
            rescaled = bool(config.get("rescale_betas_zero_snr"))
            betas = betas_from(zero_terminal(betas) if rescaled else torch.cumprod(1.0 - betas, 0))
        return kind.from_betas(betas)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"The betas in the scheduler of '{source}' make no process ({str(error).splitlines()[0]}); restore its "
            "scheduler_config.json."
        ) from error


LAST_SIGNAL = 2.0**-24
"""alpha^2 of the last step of schedules with zero terminal SNR: EulerDiscreteScheduler's in diffusers, where zero would
make the noise level infinite."""


def zero_terminal(betas: Tensor) -> Tensor:
    """alpha^2 moved so that nothing is left at the last step (Lin et al. 2023, arXiv 2305.08891, algorithm 1)."""
    alpha = torch.cumprod(1.0 - betas, 0).sqrt()
    return ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])).square()


def betas_from(alpha2: Tensor) -> Tensor:
    """The betas of a decreasing table of alpha^2, whose last entry is raised to ``LAST_SIGNAL`` if it is zero."""
    if float(alpha2[-1]) == 0.0:
        alpha2 = torch.cat([alpha2[:-1], (0.5 * alpha2[-2:-1]).clamp(max=LAST_SIGNAL)])
    return 1.0 - alpha2 / torch.cat([torch.ones_like(alpha2[:1]), alpha2[:-1]])


@dataclass(frozen=True)
class PipelineVP(VP):
    """VP whose many-step solvers start and step as diffusers' ``EulerDiscreteScheduler`` does.

    The names of the spacings are those of Lin et al. 2023, arXiv 2305.08891, table 2. A solver begins with unit noise
    at any step and its last step leads to the clean end.
    """

    spacing: Spacing = "leading"
    offset: int = 0

    @classmethod
    def from_scheduler(cls, config: Mapping[str, Any], source: str) -> PipelineVP:
        """The process of a scheduler's configuration; see :func:`process_from_scheduler`."""
        process = process_from_scheduler(config, source, cls)
        assert isinstance(process, PipelineVP)
        spacing = config.get("timestep_spacing", "linspace")
        if spacing not in ("leading", "trailing", "linspace"):
            raise UserError(
                f"The scheduler of '{source}' has timestep_spacing '{spacing}'; "
                "one of leading, trailing and linspace is needed."
            )
        return replace(process, spacing=spacing, offset=config.get("steps_offset", 0))

    def solver_grid(self, steps: int) -> list[float]:
        """The scheduler's timesteps for ``steps`` calls."""
        count = int(self.t_max) + 1
        if self.spacing == "leading":
            ratio = count // steps
            return [float(i * ratio + self.offset) for i in reversed(range(steps))]
        if self.spacing == "trailing":
            return [float(round(count - i * count / steps) - 1) for i in range(steps)]
        return super().solver_grid(steps)

    def solver_start(self, noise: Tensor, t: Tensor) -> Tensor:
        return noise


@dataclass(frozen=True)
class PipelineFlow(RectifiedFlow):
    """Rectified flow whose many-step solvers call their network where a diffusers pipeline does.

    A grid is linear from 1 to ``low``, then shifted, then stretched to end at ``terminal``.

    Args:
        shift: Factor s of all grids, t -> s t / (1 + (s - 1) t) (Esser et al. 2024, arXiv 2403.03206).
        low: Where the linear grid ends. 0 for pipelines that choose their sigmas themselves (FLUX.1, Qwen-Image), about
            1/1000 for those that leave it to the scheduler (SD3, Wan).
        included: Whether the network is called at ``low``.
        terminal: The last time of grids of more than one call; None stretches nothing.
    """

    low: float = 0.0
    included: bool = False
    terminal: float | None = None

    @property
    def even(self) -> bool:
        """Whether the pipeline hands its scheduler N even sigmas from 1 to 1/N instead of leaving them to it."""
        return self.low == 0.0

    def solver_grid(self, steps: int) -> list[float]:
        """The pipeline's sigmas for ``steps`` calls; a last step leads to the clean end."""
        if steps == 1:
            return [1.0]
        intervals = steps - 1 if self.included else steps
        linear = (1.0 - (1.0 - self.low) * i / intervals for i in range(steps))
        times = [shifted(t, self.shift) for t in linear]
        if self.terminal is not None:
            factor = (1.0 - times[-1]) / (1.0 - self.terminal)
            times = [1.0 - (1.0 - t) / factor for t in times]
        return times


def shifted(t: float, shift: float) -> float:
    """``shift t / (1 + (shift - 1) t)``."""
    return shift * t / (1.0 + (shift - 1.0) * t)


def flow_from_scheduler(config: Mapping[str, Any], source: str, tokens: int, even: bool) -> PipelineFlow:
    """The flow of a pipeline's scheduler.

    Args:
        config: Content of ``scheduler_config.json``.
        source: Name of the pipeline, for messages.
        tokens: Number of latent tokens of a sample; decides the shift if it is dynamic.
        even: Whether the pipeline hands the scheduler N even sigmas from 1 to 1/N instead of leaving them to it.

    Raises:
        UserError: If the scheduler is not one for rectified flows, or its sigmas are of a kind that is not supported.
    """
    solver_for_flows = config.get("prediction_type") == "flow_prediction" and config.get("use_flow_sigmas")
    name = config.get("_class_name", "")
    if not (name.startswith("FlowMatch") or solver_for_flows):
        raise UserError(
            f"The scheduler of '{source}' is {name or 'unknown'}, which is not one for flows; give a pipeline "
            "whose scheduler is FlowMatchEulerDiscreteScheduler, or UniPCMultistepScheduler with use_flow_sigmas."
        )
    for option in ("invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
        if config.get(option):
            raise UserError(f"The scheduler of '{source}' has {option}, which is not supported; set it to false.")
    trained = 1.0 / config.get("num_train_timesteps", 1000)
    if config.get("use_dynamic_shifting"):
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        small, large = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = small + (large - small) * (tokens - few) / (many - few)
        shift = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
        low = trained
    else:
        shift = config.get("flow_shift" if solver_for_flows else "shift", 1.0)
        # Left to itself, FlowMatchEulerDiscreteScheduler shifts its lowest sigma twice.
        low = trained if solver_for_flows else shifted(trained, shift)
    terminal = config.get("shift_terminal")
    if even:
        return PipelineFlow(shift, terminal=terminal)
    return PipelineFlow(shift, low, included=not solver_for_flows, terminal=terminal)
