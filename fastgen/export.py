"""A student as a diffusers pipeline that samples as it was trained, without fastgen.

The times of the student's calls are baked into the scheduler's configuration, so that whoever loads the folder only
gives the number of steps:

| process | first call   | moves by     | diffusers scheduler                                                      |
|---------|--------------|--------------|--------------------------------------------------------------------------|
| VP      | last step    | fresh noise  | ``LCMScheduler``, even times through ``original_inference_steps``        |
| VP      | last step    | DDIM         | ``DDIMScheduler``, trailing                                              |
| VP      | earlier      | (one call)   | ``EulerDiscreteScheduler`` whose betas end at that step                  |
| flow    | pure noise   | fresh noise  | ``FlowMatchLCMScheduler``, times through ``shift`` and ``shift_terminal``|
| flow    | pure noise   | Euler        | ``FlowMatchEulerDiscreteScheduler``, likewise                            |

What no configuration expresses is refused in a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastgen.denoisers.pipelines import PipelineDenoiser
from fastgen.errors import UserError
from fastgen.files import write_json
from fastgen.processes import VP, RectifiedFlow

TOLERANCE = 1e-4
"""Largest difference between a time of the student and its baked twin, in units of t in [0, 1]."""
SIGMA_STEP = 1e-3
"""1 / num_train_timesteps of the flow schedulers: the lowest sigma before any shift."""


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
        return _flow_scheduler(times, stochastic)
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
        )
    even = [float(i * (count // steps) - 1) for i in range(steps, 0, -1)]
    if list(times) != even:
        wanted = ", ".join(f"{t:g}" for t in even)
        raise _refuse(times, f"with {steps} steps, schedulers of diffusers call at {wanted}; train or sample there")
    betas = ("beta_start", "beta_end", "beta_schedule", "trained_betas")
    common: dict[str, Any] = {key: config[key] for key in betas if key in config}
    common |= {"num_train_timesteps": count, "prediction_type": kind, "clip_sample": False}
    if stochastic:
        return LCMScheduler(**common, original_inference_steps=steps, set_alpha_to_one=True)
    return DDIMScheduler(**common, timestep_spacing="trailing", set_alpha_to_one=True)


def _betas(process: VP) -> list[float]:
    steps = torch.arange(-1, int(process.t_max) + 1, dtype=torch.float64)
    alpha2 = process.alpha(steps).square()
    return (1.0 - alpha2[1:] / alpha2[:-1]).tolist()


def _flow_scheduler(times: Sequence[float], stochastic: bool) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler

    if times[0] != 1.0:
        raise _refuse(times, "pipelines of flows start from pure noise at t = 1")
    kind: Any = FlowMatchLCMScheduler if stochastic else FlowMatchEulerDiscreteScheduler
    if len(times) == 1:
        return kind()
    scheduler = kind(shift=_shift(times), shift_terminal=times[-1])
    scheduler.set_timesteps(len(times))
    worst = (scheduler.sigmas[:-1].double() - torch.tensor(times, dtype=torch.float64)).abs().max()
    if worst > TOLERANCE:
        raise _refuse(times, "a shift and a last time cannot express them; use even times, shifted or not")
    return scheduler


def _shift(times: Sequence[float]) -> float:
    """The shift with which diffusers' linear, shifted, stretched grid has the second of ``times``.

    Measured from t = 1 down to the last time, a shifted linear grid is ``x / (S - (S - 1) x)`` at x = i / (N - 1),
    whatever its ends: fractional linear maps with a fixed point at 0 are a group. So the second time gives S. The
    scheduler's own grid ends at its lowest sigma e, which is shifted too, in place of 0:
    ``S = s / (1 + (s - 1) e(s))`` is solved for s by bisection.
    """
    if len(times) == 2:
        return 1.0
    x = 1.0 / (len(times) - 1)
    y = (1.0 - times[1]) / (1.0 - times[-1])
    wanted = x * (1.0 / y - 1.0) / (1.0 - x)

    def reached(s: float) -> float:
        lowest = s * SIGMA_STEP / (1.0 + (s - 1.0) * SIGMA_STEP)
        return s / (1.0 + (s - 1.0) * lowest)

    low, high = 1e-3, 30.0  # the function rises up to about 1 / sqrt(SIGMA_STEP)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if reached(middle) < wanted else (low, middle)
    return 0.5 * (low + high)


def export_pipeline(
    denoiser: PipelineDenoiser, times: Sequence[float], stochastic: bool, out: Path, facts: dict[str, Any]
) -> Path:
    """Write the teacher's pipeline with the student's network and scheduler in it.

    Args:
        denoiser: The student.
        times: Times of its calls.
        stochastic: Whether it moves with fresh noise.
        out: A folder that is new or empty.
        facts: More for ``fastgen.json``.

    Raises:
        UserError: If the times cannot be baked, the folder is in use, or the teacher's pipeline cannot be read.
    """
    from diffusers import DiffusionPipeline

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out '{out}' exists; give a folder that is new or empty.")
    scheduler = baked_scheduler(denoiser, times, stochastic)
    pipeline = denoiser.pipeline.assemble(DiffusionPipeline, {denoiser.part: denoiser.network, "scheduler": scheduler})
    pipeline.save_pretrained(out, safe_serialization=True)
    facts = {
        "pipeline": type(pipeline).__name__,
        "scheduler": type(scheduler).__name__,
        "steps": len(times),
        "times": list(times),
        "stochastic": stochastic,
        "prediction": denoiser.prediction,
        "latent_shape": list(denoiser.sample_shape),
        "guidance_scale": 1.0,
        **facts,
    }
    write_json(out / "fastgen.json", facts)
    (out / "README.md").write_text(_card(facts), encoding="utf-8")
    return out


def _card(facts: dict[str, Any]) -> str:
    """How to use the folder."""
    return f"""---
library_name: diffusers
---
A student of {facts["steps"]} steps, distilled with fastgen. It needs no guidance, and its scheduler knows its steps.

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("PATH_OF_THIS_FOLDER")
image = pipe("a cat", num_inference_steps={facts["steps"]}, guidance_scale=1.0).images[0]
```

```json
{json.dumps(facts, indent=2)}
```
"""
