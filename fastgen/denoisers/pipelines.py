"""What all families in the diffusers format share: reading a pipeline, and its network as a denoiser.

Only JSON and safetensors files are read, by classes that our code names: nothing from a folder or the hub is executed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Denoiser, load_strictly
from fastgen.errors import UserError
from fastgen.processes import PredictionKind, Process

T = TypeVar("T")

NULL = "null_"
"""Prefix of the unconditional counterpart of an entry of a condition."""


@dataclass(frozen=True)
class PipelineFolder:
    """A diffusers pipeline, in a local folder or on the Hugging Face hub, read part by part.

    Args:
        pretrained: Local folder, or hub id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``.
        revision: Branch, tag or commit of the hub repository; None is its default branch.
        variant: Infix of the weight files, e.g. ``fp16``; None is the plain files.
    """

    pretrained: str
    revision: str | None = None
    variant: str | None = None

    @cached_property
    def index(self) -> dict[str, Any]:
        """``model_index.json``: the parts with their classes (None for a part left out) and the pipeline's settings."""
        from diffusers import DiffusionPipeline

        return self._read(None, lambda: dict(DiffusionPipeline.load_config(self._place, revision=self.revision)))

    def has(self, part: str) -> bool:
        """Whether the pipeline was saved with a part that its family may leave out."""
        return self.index.get(part, [None])[0] is not None

    def config(self, part: str, kind: Any) -> dict[str, Any]:
        """The JSON configuration of a part, e.g. ``unet``; ``kind`` is the diffusers class that it describes."""
        return self._read(part, lambda: kind.load_config(self._place, subfolder=part, revision=self.revision))

    def network(self, part: str, kind: Any) -> Any:
        """The module of the diffusers class ``kind`` that a part's configuration describes, with random weights."""
        return kind.from_config(self.config(part, kind))

    @cached_property
    def latent_factor(self) -> int:
        """Pixels per latent of an ``AutoencoderKL``."""
        from diffusers import AutoencoderKL

        return 2 ** (len(self.config("vae", AutoencoderKL)["block_out_channels"]) - 1)

    def model(self, part: str, kind: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A part with its weights: frozen, in eval mode, in ``dtype``.

        Raises:
            UserError: If a file is missing, broken, incomplete or pickled.
        """
        self._refuse_pickles(part)

        def load() -> tuple[nn.Module, dict[str, Any]]:
            return kind.from_pretrained(
                self._place,
                subfolder=part,
                revision=self.revision,
                variant=self.variant,
                use_safetensors=True,
                dtype=dtype,  # read as asked for: a larger copy on the way would count at 20 billion parameters
                output_loading_info=True,
            )

        model, report = self._read(part, load)
        # Both libraries fill missing tensors with random numbers and only warn.
        if missing := sorted(report["missing_keys"]):
            raise UserError(
                f"'{self.pretrained}/{part}' is incomplete: {len(missing)} tensors are missing, first '{missing[0]}'; "
                "copy or download it again."
            )
        # Diffusers' own .to() warns about dtypes even where nothing is at stake.
        return nn.Module.to(model, dtype).requires_grad_(False).eval()

    def tokenizer(self, part: str, kind: Any) -> Any:
        """A tokenizer of the transformers class ``kind``."""
        return self._read(
            part, lambda: kind.from_pretrained(self._place, subfolder=part, revision=self.revision or "main")
        )

    def assemble(self, parts: Mapping[str, Any]) -> Any:
        """The whole diffusers pipeline, with some parts replaced, or left out by ``None``.

        Raises:
            UserError: If a file cannot be read or the pipeline is not one of diffusers' own.
        """
        import diffusers

        # DiffusionPipeline.from_pretrained would drop a replacement that is optional in the pipeline (Wan's network).
        kind = getattr(diffusers, self.index["_class_name"], None)
        if kind is None:
            raise UserError(f"'{self.pretrained}' is a {self.index['_class_name']}, which diffusers does not have.")
        return self._read(
            None,
            lambda: kind.from_pretrained(
                self._place, revision=self.revision, variant=self.variant, use_safetensors=True, **parts
            ),
        )

    @property
    def is_local(self) -> bool:
        """Whether it is a folder here."""
        return Path(self.pretrained).expanduser().is_dir()

    @property
    def _place(self) -> str:
        return str(Path(self.pretrained).expanduser()) if self.is_local else self.pretrained

    def _read(self, part: str | None, read: Callable[[], T]) -> T:
        from safetensors import SafetensorError

        folder = Path(self._place)
        if folder.is_dir() and part is not None and not (folder / part).is_dir():
            raise UserError(
                f"'{self.pretrained}' has no folder '{part}'; give a folder that was written by save_pretrained of a "
                "diffusers pipeline of this family."
            )
        if not folder.is_dir() and (folder.is_absolute() or folder.parts[:1] in ((), ("..",), ("~",))):
            raise UserError(f"'{self.pretrained}' is not a folder; give a diffusers pipeline folder or a hub id.")
        name = "model_index.json" if part is None else part
        try:
            return read()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if folder.is_dir():
                message = f"'{self.pretrained}/{name}' cannot be read ({reason}); copy or download it again."
            else:
                message = (
                    f"'{self.pretrained}' is not a folder and its '{name}' cannot be read from the hub ({reason}); "
                    "check the spelling, the connection and HF_TOKEN, or give a local pipeline folder."
                )
            raise UserError(message) from error

    def _refuse_pickles(self, part: str) -> None:
        """Say in our words that a local part has pickled weights only; from the hub none are asked for."""
        names = sorted(file.name for file in (Path(self._place) / part).glob("*"))
        pickles = [name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]
        if pickles and not any(name.endswith(".safetensors") for name in names):
            raise UserError(
                f"'{self.pretrained}/{part}' has its weights only as a pickle ('{pickles[0]}'), which is never opened "
                "because it can run code; save the pipeline again with safe_serialization=True."
            )


def latent_side(resolution: int | None, default: int, multiple: int, factor: int, source: str) -> int:
    """Side of the latents of an image of ``resolution`` (None: ``default``) pixels.

    Args:
        resolution: What the user asked for.
        default: Pixels that the network was trained at.
        multiple: Pixels must be a multiple of this: ``factor`` times the network's patch.
        factor: Pixels per latent.
        source: Name of the pipeline, for messages.

    Raises:
        UserError: If the side is no positive multiple.
    """
    pixels = default if resolution is None else resolution
    if pixels <= 0 or pixels % multiple:
        raise UserError(f"resolution is a positive multiple of {multiple} pixels for '{source}', got {pixels}.")
    return pixels // factor


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
    part: str = "transformer"
    """Folder of the network in the pipeline and its name in this module."""

    def __init__(
        self,
        pipeline: PipelineFolder,
        network: Any,
        process: Process,
        prediction: PredictionKind,
        sample_shape: tuple[int, ...],
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(process, prediction, sample_shape)
        self.pipeline = pipeline
        self.add_module(self.part, network)
        if gradient_checkpointing:
            network.enable_gradient_checkpointing()

    @property
    def network(self) -> Any:
        """The diffusers module."""
        return self.get_submodule(self.part)

    def load_weights(self) -> None:
        """Fill the network from the pipeline's safetensors.

        Raises:
            UserError: If the file is missing, broken, incomplete or pickled.
        """
        weights = self.pipeline.model(self.part, type(self.network), self.network.dtype).state_dict()
        load_strictly(self.network, weights, f"{self.pipeline.pretrained}/{self.part}")

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

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        """The raw answer at latents ``x_t`` (B, ...) and times ``t`` (B,)."""
        name = type(self).__name__
        if "prompt_embeds" not in condition:
            raise UserError(f"{name} needs prompts; use a data module whose condition is a list of prompts.")
        dtype = self.network.dtype
        ready = {key: value.to(dtype) if value.is_floating_point() else value for key, value in condition.items()}
        with self.added_inputs(t, condition, s):
            return self.answer(x_t.to(dtype), t.float(), ready)

    def null_condition(self, condition: Condition) -> Condition:
        """The condition of no prompt for every sample, with the names and shapes of ``condition``."""
        nulls = {name.removeprefix(NULL): value for name, value in condition.items() if name.startswith(NULL)}
        return {**condition, **nulls}

    def example_condition(self, count: int, device: torch.device | str = "cpu") -> Condition:
        """Zeros of the right shapes."""
        shapes = self.condition_shapes()
        names = (*shapes, *(NULL + name for name in shapes))
        return {name: torch.zeros(count, *shapes[name.removeprefix(NULL)], device=device) for name in names}
