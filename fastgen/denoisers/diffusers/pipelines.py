"""PipelineDenoiser: what the networks of all families in the diffusers format share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser, load_strictly
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.errors import UserError
from fastgen.processes import PredictionKind, Process

NUMBERS = ("guidance", "time_ids")
"""Entries of a condition that are numbers like the time: networks embed them, so they are never rounded."""
NULL = "null_"
"""Prefix of the unconditional counterpart of an entry of a condition."""


def latent_sides(source: str, size: tuple[int, int], factor: int, patch: int | tuple[int, int] = 1) -> tuple[int, int]:
    """Rows and columns of the latents of an image of ``size`` pixels.

    Args:
        source: Name of the pipeline, for messages.
        size: Height and width of the image.
        factor: Pixels per latent.
        patch: Latents per token of the network, along both sides or for each.

    Raises:
        UserError: If a side is no positive multiple of ``factor`` times ``patch``.
    """
    patches = (patch, patch) if isinstance(patch, int) else patch
    for name, pixels, latents in zip(("height", "width"), size, patches, strict=True):
        multiple = factor * latents
        if pixels <= 0 or pixels % multiple:
            raise UserError(f"The {name} is a positive multiple of {multiple} pixels for '{source}', got {pixels}.")
    return size[0] // factor, size[1] // factor


class PipelineDenoiser(Denoiser):
    """The network of a diffusers pipeline as a denoiser: nothing but that network, so that a copy is a copy of it.

    A condition holds what the codec of the family makes of prompts: tensors by name, and for each that differs without
    a prompt its counterpart under ``null_<name>``.

    Args:
        pipeline: Where configurations and weights are.
        network: The module of the part ``self.part``, built from its configuration.
        process: How data becomes noise.
        prediction: What the network predicts.
        sample_shape: Shape of one latent sample.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
    """

    takes_prompts = True
    negative_prompt: str | None = None
    """What guidance leads away from, in place of the family's empty prompt."""
    lora: str | None = None
    """A LoRA that is merged into the network when its weights are read."""
    part: str = "transformer"
    """Folder of the network in the pipeline and its name in this module."""
    time_scale: float = 1.0
    """The network makes sinusoids of this many times a time of the process."""
    flow_maps: bool = False
    """Whether diffusers has a pipeline of the family for flow maps that are told a gated second time."""

    def __init__(
        self,
        pipeline: PipelineFolder,
        network: Any,
        process: Process,
        prediction: PredictionKind,
        sample_shape: tuple[int, ...],
        gradient_checkpointing: bool = False,
    ) -> None:
        from fastgen.denoisers.diffusers.exact_time import make_exact

        super().__init__(process, prediction, sample_shape)
        self.pipeline = pipeline
        self.add_module(self.part, network)
        for path in self.number_paths:
            embedder: Any = self.get_submodule(path)
            make_exact(embedder)
        if gradient_checkpointing:
            network.enable_gradient_checkpointing()

    @property
    def network(self) -> Any:
        """The diffusers module."""
        return self.get_submodule(self.part)

    def load_weights(self) -> None:
        """Fill the network from the pipeline's safetensors, with the LoRA if there is one.

        Raises:
            UserError: If the file is missing, broken, incomplete or pickled, or the LoRA does not fit.
        """
        model = self.pipeline.model(self.part, type(self.network), self.network.dtype)
        if self.lora is not None:
            from fastgen.denoisers.diffusers.teacher_lora import merge_lora

            merge_lora(self.pipeline, self.part, model, self.lora)
        load_strictly(self.network, model.state_dict(), f"{self.pipeline.pretrained}/{self.part}")

    @abstractmethod
    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The network's answer; ``x_t`` and the floating-point entries of ``condition`` are in the network's dtype.

        Args:
            x_t: Latents, (B, *sample_shape).
            t: Times of the process, (B,), fp32.
            condition: See :meth:`condition_shapes`.
        """

    @abstractmethod
    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes, without the batch axis, of the smallest condition that the network takes."""

    def call_options(self, pipe: Any) -> dict[str, Any]:
        """What the diffusers pipeline ``pipe`` is called with, beside prompt and steps, to use the network as here."""
        height, width = (pipe.vae_scale_factor * side for side in self.sample_shape[-2:])
        return {"height": height, "width": width, "guidance_scale": 1.0}

    def flow_map_pipeline(self, pipe: Any, gate: float, embedder: nn.Module, shift: float) -> Any:
        """The pipeline of a flow map, for families that have one (:attr:`flow_maps`).

        Args:
            pipe: The teacher's pipeline.
            gate: Share of the second time.
            embedder: Of the second time.
            shift: Of the times of the student's calls.
        """
        raise NotImplementedError

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        """The raw answer at latents ``x_t`` (B, ...) and times ``t`` (B,)."""
        from fastgen.denoisers.diffusers.exact_time import told

        name = type(self).__name__
        if "prompt_embeds" not in condition:
            raise UserError(f"{name} needs prompts; use a data module whose condition is a list of prompts.")
        dtype = self.network.dtype
        ready = {
            key: value.to(dtype) if value.is_floating_point() and key not in NUMBERS else value
            for key, value in condition.items()
        }
        features = {
            self.get_submodule(path): self.sinusoids(number)
            for path, number in zip(self.number_paths, self.numbers(t.float(), condition), strict=True)
        }
        with self.added_inputs(t, condition, s), told(features, dtype):
            return self.answer(x_t.to(dtype), t.float(), ready)

    def time_features(self, t: Tensor) -> Tensor:
        return self.sinusoids(self.time_number(t.float()))

    @property
    def sinusoids_path(self) -> str:
        """Path of the module, without parameters, that makes features of a number."""
        raise NotImplementedError

    def sinusoids(self, number: Tensor) -> Tensor:
        """What embedders see of a number (B,) in fp32; overridden where no module makes it."""
        features: Tensor = self.get_submodule(self.sinusoids_path)(number)
        return features

    def time_number(self, t: Tensor) -> Tensor:
        """The number, (B,), that the network makes features of for times ``t`` (B,)."""
        return self.time_scale * t

    @property
    def number_paths(self) -> tuple[str, ...]:
        """Paths of the embedders of such features, the time's first."""
        return (self.time_path,)

    def numbers(self, t: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """What :attr:`number_paths` embed, each (B,) in fp32: the network may round what it is called with."""
        return (self.time_number(t),)

    def null_condition(self, condition: Condition) -> Condition:
        """The condition of no prompt for every sample, with the names and shapes of ``condition``."""
        nulls = {name.removeprefix(NULL): value for name, value in condition.items() if name.startswith(NULL)}
        return {**condition, **nulls}

    def example_condition(self, count: int, device: torch.device | str = "cpu") -> Condition:
        """Zeros of the right shapes; masks are true."""
        found = {}
        for name, shape in self.condition_shapes().items():
            value = torch.zeros(count, *shape, device=device)
            found[name] = found[NULL + name] = ~value.bool() if name.endswith("mask") else value
        return {name: found[name] for name in sorted(found, key=lambda name: name.startswith(NULL))}
