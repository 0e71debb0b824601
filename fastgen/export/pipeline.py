"""A student as a diffusers pipeline that samples as it was trained, without fastgen.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.diffusers.schedulers import PipelineFlow, shifted
from fastgen.denoisers.wrappers.fake_quant import folded, rounds_inputs
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser
from fastgen.denoisers.wrappers.on_grid import OnGrid
from fastgen.denoisers.wrappers.routed import Routed
from fastgen.denoisers.wrappers.second_time import CopiedTime
from fastgen.distiller.base import Distiller
from fastgen.errors import UserError
from fastgen.processes import VP, RectifiedFlow
from fastgen.randomness import Draws
from fastgen.storage.files import write_json

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


@dataclass(frozen=True)
class Sampling:
    """How an exported student is sampled.

    Args:
        times: Times of its calls.
        stochastic: Whether it moves with fresh noise.
        facts: More for ``fastgen.json``.
        guidance: The scale that it is told; None for a student that is told none.
        second_time: What tells a flow map where a jump ends; its pipeline is another one than the teacher's.
    """

    times: Sequence[float]
    stochastic: bool
    facts: dict[str, Any]
    guidance: float | None = None
    second_time: CopiedTime | None = None

    def scheduler(self, denoiser: PipelineDenoiser) -> Any:
        """See :func:`baked_scheduler`."""
        return baked_scheduler(denoiser, self.times, self.stochastic)

    def refuse(self, denoiser: PipelineDenoiser) -> None:
        """Raise a ``UserError`` if diffusers cannot call the student ``denoiser`` so."""
        if self.second_time is None:
            self.scheduler(denoiser)
        else:
            flow_map_shift(self.times)


def network_of(student: Denoiser) -> Denoiser:
    """What a student runs: itself, or the network that it adapts or calls at times of its own."""
    if isinstance(student, OnGrid):
        return student.network
    return student.base if isinstance(student, AdaptedDenoiser) else student


def sampling_of(method: Distiller, role: str = "average", steps: int | None = None) -> Sampling:
    """How diffusers alone samples from a method's student.

    Args:
        method: Who trained it.
        role: Which weights; see ``Distiller.network``.
        steps: Number of calls; default as trained.

    Raises:
        UserError: If it could not: every reason for which ``fastgen export`` refuses a student as such.
    """
    student, name = method.network(role), type(method).__name__
    if isinstance(student, Routed):
        raise UserError(
            f"{name} trained {len(student.networks)} networks, each for a part of the conditions; write each by its "
            f"number: --role {role}/0 to {role}/{len(student.networks) - 1}."
        )
    network = network_of(student)
    if not isinstance(network, PipelineDenoiser):
        raise UserError(
            f"{type(network).__name__} is no network of a diffusers pipeline, so there is no pipeline to export it "
            "into; take student.safetensors beside the checkpoint."
        )
    moves = method.sampler.moves
    if moves is None or type(method).generate is not Distiller.generate:
        raise UserError(
            f"{name} samples in a way of its own, which no scheduler of diffusers knows; take "
            "student.safetensors beside the checkpoint, or 'fastgen sample'."
        )
    gated = isinstance(student.second_time, CopiedTime) and student.second_time.gate is not None
    native = gated and network.flow_maps and moves == "jump"
    if (student.second_time is not None and not native) or student.guidance_input is not None:
        hint = " (Wan's tells where a jump ends with second_time: GatedTime)" if network.flow_maps else ""
        raise UserError(
            f"{name} gave its student an input that no pipeline of diffusers has (where a jump ends, or the guidance "
            "scale, which only whole U-Nets of Stable Diffusion and FLUX.1-dev are told); sample from the checkpoint "
            f"with 'fastgen sample'{hint}."
        )
    if isinstance(student, OnGrid) and student.guidance != 1.0:
        raise UserError(
            f"{name} calls its teacher with the guidance scale {student.guidance:g}, which an exported folder does not "
            "hold; sample from the checkpoint with 'fastgen sample'."
        )
    if rounds_inputs(network):
        raise UserError(
            f"{name}'s student rounds the inputs of its layers, which a pipeline of diffusers does not; set "
            "student.activations to false, or take student.safetensors beside the checkpoint to a runtime that does."
        )
    told = method.student_condition({}, Draws(0, [0], "export")).get("guidance")
    facts = {"method": name, "role": role, "student_updates": method.student_updates}
    times = method.sampler.schedule(student, steps)
    second = student.second_time if isinstance(student.second_time, CopiedTime) else None
    sampling = Sampling(times, moves == "renoise", facts, None if told is None else float(told[0]), second)
    sampling.refuse(network)
    return sampling


def why_not_exported(method: Distiller) -> str | None:
    """Why ``fastgen export`` would refuse a method's student, although it comes from a diffusers pipeline.

    ``None`` if it would not, or if no pipeline was ever there to export it into.
    """
    networks = [network.backbone for network in (method.teacher, method.student) if network is not None]
    if not any(isinstance(part, PipelineDenoiser) for network in networks for part in network.modules()):
        return None
    try:
        sampling_of(method, "student/0" if isinstance(method.student, Routed) else "student")
    except UserError as error:
        return str(error)
    return None


def refuse_used(out: Path) -> None:
    """Raise a ``UserError`` unless ``out`` is new or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out '{out}' exists; give a folder that is new or empty.")


def export_pipeline(denoiser: PipelineDenoiser, sampling: Sampling, out: Path) -> None:
    """Write the teacher's pipeline with the student's network and scheduler in it.

    Args:
        denoiser: The student.
        sampling: How it is sampled.
        out: A folder that is new or empty.

    Raises:
        UserError: If the times cannot be baked, the folder is in use, or the teacher's pipeline cannot be read.
    """
    refuse_used(out)
    denoiser = cast(PipelineDenoiser, folded(denoiser))
    if sampling.second_time is None:
        scheduler = sampling.scheduler(denoiser)
        pipe = denoiser.pipeline.assemble({denoiser.part: denoiser.network, "scheduler": scheduler})
    else:
        second = sampling.second_time
        assert second.gate is not None  # sampling_of
        teacher = denoiser.pipeline.assemble({denoiser.part: denoiser.network})
        pipe = denoiser.flow_map_pipeline(teacher, second.gate, second.embedder, flow_map_shift(sampling.times))
    pipe.save_pretrained(out, safe_serialization=True)
    write_card(out, denoiser, pipe, sampling, ['pipe = DiffusionPipeline.from_pretrained("PATH_OF_THIS_FOLDER")'])


def write_card(out: Path, denoiser: PipelineDenoiser, pipe: Any, sampling: Sampling, load: Sequence[str]) -> None:
    """Say how to use an exported student, in ``fastgen.json`` and ``README.md``.

    Args:
        out: The folder.
        denoiser: The student, or the network that it adapts.
        pipe: Its pipeline, with the scheduler that calls it.
        sampling: How it is sampled.
        load: Lines of Python that make ``pipe``.
    """
    scheduler = type(pipe.scheduler).__name__
    call = {"num_inference_steps": len(sampling.times), **denoiser.call_options(pipe)}
    if sampling.guidance is not None:
        call["guidance_scale"] = sampling.guidance
    facts = {
        "pipeline": type(pipe).__name__,
        "scheduler": scheduler,
        "call": call,
        "times": list(sampling.times),
        "stochastic": sampling.stochastic,
        "prediction": denoiser.prediction,
        "latent_shape": list(denoiser.sample_shape),
        **({} if denoiser.negative_prompt is None else {"negative_prompt": denoiser.negative_prompt}),
        **sampling.facts,
    }
    write_json(out / "fastgen.json", facts)
    code = "\n".join(load)
    names = ["DiffusionPipeline", *([scheduler] if scheduler in code else [])]
    options = ", ".join(f"{name}={value}" for name, value in call.items())
    result = "frames" if "num_frames" in call else "images"
    teacher = denoiser.pipeline
    base = "" if teacher.is_local else f"base_model: {teacher.pretrained}\n"
    text = f"""---
library_name: diffusers
{base}tags: [fastgen]
---
A student of {len(sampling.times)} steps, distilled with fastgen. Keep the arguments below, they are those of its
training; its scheduler knows when to call it, so give neither timesteps nor sigmas.

```python
from diffusers import {", ".join(names)}

{code}
result = pipe("a cat", {options}).{result}[0]
```
"""
    if denoiser.negative_prompt is not None:
        text += f"""
Its teacher was guided away from the negative prompt "{denoiser.negative_prompt}"; the student carries that guidance and
is called without one.
"""
    if sampling.stochastic and len(sampling.times) > 1:
        text += """
Noise is added between steps. Some pipelines draw it from torch's global generator whatever `generator` they are given;
call `torch.manual_seed` to make a result repeatable.
"""
    (out / "README.md").write_text(text, encoding="utf-8")
