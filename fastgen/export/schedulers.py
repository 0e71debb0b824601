"""Times of a student, baked into a scheduler of diffusers.

The times of the student's calls are baked into the scheduler's configuration, so that whoever loads the folder only
gives the number of steps:

| process | first call   | moves by     | diffusers scheduler                                                      |
|---------|--------------|--------------|--------------------------------------------------------------------------|
| VP      | last step    | fresh noise  | ``LCMScheduler``, even times or LCM's own, ``original_inference_steps``  |
| VP      | last step    | DDIM         | ``DDIMScheduler``, trailing                                              |
| VP      | earlier      | (one call)   | ``EulerDiscreteScheduler`` whose betas end at that step                  |
| flow    | pure noise   | fresh noise  | ``FlowMatchLCMScheduler``, times through ``shift`` and ``shift_terminal``|
| flow    | pure noise   | Euler        | ``FlowMatchEulerDiscreteScheduler``, likewise                            |
| flow    | pure noise   | jumps        | ``FlowMapEulerDiscreteScheduler`` of AnyFlow's pipeline (Wan), by shift  |

The shift also depends on the pipeline: those of FLUX.1 and Qwen-Image hand even sigmas to the scheduler, the others
leave them to it. What no configuration expresses is refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.diffusers.schedulers import PipelineFlow, shifted
from fastgen.errors import UserError
from fastgen.processes import VP, RectifiedFlow

TOLERANCE = 1e-4
"""Largest difference between a time of the student and its baked twin, in units of t in [0, 1]."""
SIGMA_STEP = 1e-3
"""1 / num_train_timesteps of the flow schedulers: the lowest sigma before any shift."""
LCM_GRID = 50
"""``original_inference_steps`` of LCM's checkpoints."""
OFFSET = {"steps_offset": 1}
"""Without effect on the spacings here, but pipelines of Stable Diffusion warn about any other value."""


def baked_scheduler(denoiser: PipelineDenoiser, times: Sequence[float], stochastic: bool) -> Any:
    """A diffusers scheduler whose grid of ``len(times)`` steps is ``times``.

    Args:
        denoiser: The student.
        times: Decreasing times of its calls, in the units of its process.
        stochastic: Whether it moves with fresh noise or along its predicted noise.

    Raises:
        UserError: If no scheduler of diffusers can call the student at these times by itself.
    """
    process = denoiser.process
    if isinstance(process, VP):
        return _vp_scheduler(denoiser, process, times, stochastic)
    if isinstance(process, RectifiedFlow):
        return _flow_scheduler(times, stochastic, isinstance(process, PipelineFlow) and process.even)
    raise UserError(
        f"{type(process).__name__} has no scheduler in diffusers; students on VP and flows can be exported."
    )


def _refuse(times: Sequence[float], why: str) -> UserError:
    text = ", ".join(f"{t:g}" for t in times)
    return UserError(f"A student that is called at {text} cannot be exported with its times baked in: {why}.")


def _vp_scheduler(denoiser: PipelineDenoiser, process: VP, times: Sequence[float], stochastic: bool) -> Any:
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler

    count, steps = int(process.t_max) + 1, len(times)
    config = denoiser.pipeline.config("scheduler", DDIMScheduler)
    kinds = {"noise": "epsilon", "v": "v_prediction", "x0": "sample"}
    kind = kinds[denoiser.prediction]
    if steps == 1 and times[0] < process.t_max:
        # Trailing steps start at the last beta, with noise of that level; the only step goes to sigma 0.
        first = round(times[0])
        if first != times[0]:
            raise _refuse(times, "steps of diffusers are whole numbers")
        return EulerDiscreteScheduler(
            num_train_timesteps=first + 1,
            trained_betas=_betas(process)[: first + 1],
            timestep_spacing="trailing",
            prediction_type=kind,
            **OFFSET,
        )
    even = [float(i * (count // steps) - 1) for i in range(steps, 0, -1)]
    # LCMScheduler's own choice among the grid that it was named after, e.g. 999, 759, 499, 259.
    named = [float((LCM_GRID - i * LCM_GRID // steps) * (count // LCM_GRID) - 1) for i in range(min(steps, LCM_GRID))]
    if list(times) != even and not (stochastic and list(times) == named):
        wanted = ", ".join(f"{t:g}" for t in even)
        raise _refuse(times, f"with {steps} steps, schedulers of diffusers call at {wanted}; train or sample there")
    betas = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    common: dict[str, Any] = {key: config[key] for key in betas if key in config}
    common |= {"num_train_timesteps": count, "prediction_type": kind, "clip_sample": False} | OFFSET
    if stochastic:
        origin = steps if list(times) == even else LCM_GRID
        return LCMScheduler(**common, original_inference_steps=origin, set_alpha_to_one=True)
    return DDIMScheduler(**common, timestep_spacing="trailing", set_alpha_to_one=True)


def _betas(process: VP) -> list[float]:
    steps = torch.arange(-1, int(process.t_max) + 1, dtype=torch.float64)
    alpha2 = process.alpha(steps).square()
    return (1.0 - alpha2[1:] / alpha2[:-1]).tolist()


def _flow_scheduler(times: Sequence[float], stochastic: bool, even: bool) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler

    if times[0] != 1.0:
        raise _refuse(times, "pipelines of flows start from pure noise at t = 1")
    kind: Any = FlowMatchLCMScheduler if stochastic else FlowMatchEulerDiscreteScheduler
    steps = len(times)
    if steps == 1:
        return kind()
    scheduler = kind(shift=_shift(times, even), shift_terminal=times[-1])
    scheduler.set_timesteps(steps, sigmas=[1.0 - i / steps for i in range(steps)] if even else None)
    worst = (scheduler.sigmas[:-1].double() - torch.tensor(times, dtype=torch.float64)).abs().max()
    if worst > TOLERANCE:
        raise _refuse(times, "a shift and a last time cannot express them; use even times, shifted or not")
    return scheduler


def _shift(times: Sequence[float], even: bool) -> float:
    """The shift with which diffusers' linear, shifted, stretched grid has the second of ``times``.

    Measured from t = 1 down to the last time, a shifted linear grid is ``x / (S - (S - 1) x)`` at x = i / (N - 1),
    whatever its ends: fractional linear maps with a fixed point at 0 are a group. So the second time gives S. The
    linear grid ends at e in place of 0: at 1/N where the pipeline gives it (``even``), else at the scheduler's lowest
    sigma, which is shifted too. ``S = s / (1 + (s - 1) e(s))`` is solved for s by bisection.
    """
    if len(times) == 2:
        return 1.0
    x = 1.0 / (len(times) - 1)
    y = (1.0 - times[1]) / (1.0 - times[-1])
    wanted = x * (1.0 / y - 1.0) / (1.0 - x)

    def reached(s: float) -> float:
        end = 1.0 / len(times) if even else shifted(SIGMA_STEP, s)
        return s / (1.0 + (s - 1.0) * end)

    low, high = 1e-3, 30.0  # the function rises up to about 1 / sqrt(SIGMA_STEP)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if reached(middle) < wanted else (low, middle)
    return 0.5 * (low + high)


def flow_map_shift(times: Sequence[float]) -> float:
    """The shift with which ``FlowMapEulerDiscreteScheduler`` calls a flow map at ``times``.

    Its grid of N calls is ``s u / (1 + (s - 1) u)`` at u = 1, 1 - 1/N, .., 1/N. (It shifts sigmas that it is given once
    more, so whoever calls the pipeline gives none.)

    Raises:
        UserError: If its times are others.
    """
    if times[0] != 1.0:
        raise _refuse(times, "pipelines of flows start from pure noise at t = 1")
    steps = len(times)
    u, t = 1.0 - 1.0 / steps, times[min(1, steps - 1)]
    shift = 1.0 if steps == 1 else t * (1.0 - u) / (u * (1.0 - t))
    if max(abs(shifted(1.0 - i / steps, shift) - t) for i, t in enumerate(times)) > TOLERANCE:
        raise _refuse(times, "a shift of even times cannot express them, and the scheduler of flow maps has no other")
    return shift
