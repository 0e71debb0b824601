"""How diffusers alone samples from a student, and why it could not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.wrappers.fake_quant import rounds_inputs
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser
from fastgen.denoisers.wrappers.on_grid import OnGrid
from fastgen.denoisers.wrappers.routed import Routed
from fastgen.denoisers.wrappers.second_time import CopiedTime
from fastgen.distiller.base import Distiller
from fastgen.errors import UserError
from fastgen.export.schedulers import baked_scheduler, flow_map_shift
from fastgen.randomness import Draws


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
