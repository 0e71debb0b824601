"""The contract of every network: a denoiser on a process, and the codec in front of it."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.wrappers.added_inputs import GuidanceInput, SecondTime
from fastgen.denoisers.wrappers.second_time import CopiedTime, NoiseAngles, SecondTimeForm
from fastgen.errors import UserError
from fastgen.fitting import misfits
from fastgen.processes import Prediction, PredictionKind, Process
from fastgen.storage.files import load_tensors

Input = TypeVar("Input", SecondTime, GuidanceInput)


class Codec(nn.Module):
    """Translates between what people see (pixels, prompts) and what the denoiser sees (latents, embeddings).

    The base class is the identity: samples are already in the denoiser's space. A codec is frozen, belongs to the
    teacher's family and is never part of a training checkpoint.
    """

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to the denoiser's x0 space."""
        return images

    def decode(self, x0: Tensor) -> Tensor:
        """x0 to images (B, C, H, W), nominally in [-1, 1] (not clamped), or to points (B, D)."""
        return x0

    def encode_condition(self, condition: Mapping[str, Any]) -> Condition:
        """A condition as the data module gives it (labels, lists of prompts) to tensors for the denoiser."""
        return condition


class ForwardStopped(Exception):
    """Raised inside a network whose remaining layers nobody needs; its own :meth:`Denoiser.forward` catches it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class Denoiser(nn.Module, ABC):
    """A network on a process: ``denoiser(x_t, t, condition) -> Prediction``.

    Constructors build the architecture only; ``load_weights`` reads the file, so that a checkpoint can be restored
    without it and sharded models can be filled after they are placed.

    Args:
        process: How data becomes noise.
        prediction: What :meth:`predict` returns.
        sample_shape: Shape of one sample without the batch axis.
        weights: safetensors file with the state dict, or ``None`` for random weights. ``asset:NAME`` names a file that
            ships with fastgen.
    """

    num_classes: int = 0
    """Number of labels that the network knows; 0 if it takes none. The null label is ``num_classes``."""
    takes_prompts: bool = False
    """Whether conditions begin as text."""
    forward_methods: tuple[str, ...] = ()
    """Methods beside ``forward`` that are called from outside and call layers."""

    def __init__(
        self, process: Process, prediction: PredictionKind, sample_shape: tuple[int, ...], weights: str | None = None
    ) -> None:
        super().__init__()
        self.process = process
        self.prediction = prediction
        self.sample_shape = tuple(sample_shape)
        self.weights = weights
        self.second_time: SecondTime | CopiedTime | None = None
        self.guidance_input: GuidanceInput | None = None

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        """The raw answer of kind ``self.prediction``, shape of ``x_t``. ``t`` (B,) is a time of ``self.process``.

        ``s`` (B,) is the second time of a flow map, only for networks with that input; ``None`` means ``s = t``.
        """

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition | None = None, s: Tensor | None = None
    ) -> Prediction:
        """Denoise ``x_t`` (B, ...) at times ``t`` (B,) in fp32 or fp64."""
        try:
            value = self.predict(x_t, t, condition or {}, s)
        except ForwardStopped as stopped:
            if stopped.network is not self:
                raise
            traceback.clear_frames(stopped.__traceback__)  # a checkpointed block that was left lets go of autograd now
            value = torch.zeros((), dtype=x_t.dtype, device=x_t.device).expand(x_t.shape)
        return Prediction(self.process, x_t, t, value, self.prediction)

    @property
    def takes_second_time(self) -> bool:
        """Whether the network has the second time input of flow maps."""
        return self.second_time is not None

    def add_second_time(self, form: SecondTimeForm = NoiseAngles()) -> None:
        """Give the network the second time input of flow maps without changing its function; idempotent.

        Raises:
            UserError: If the network names no embedding of its time, or has no place for the form.
        """
        if not self.takes_second_time:
            self.second_time = form.build(self)

    @property
    def takes_guidance(self) -> bool:
        """Whether the network reads ``condition["guidance"]``, by an input of its own or an added one."""
        return self.guidance_input is not None

    @property
    def guided_by_input(self) -> bool:
        """Whether its pipeline guides it by telling it the scale, in one call without a null condition."""
        return False

    def add_guidance_input(self) -> None:
        """Let the network read ``condition["guidance"]`` without changing its function; idempotent.

        One that reads it already, such as FLUX.1-dev, gets nothing.

        Raises:
            UserError: If the network names no embedding of its time.
        """
        if not self.takes_guidance:
            self.guidance_input = self.new_input(GuidanceInput)

    def new_input(self, kind: type[Input]) -> Input:
        """An input that is added to the embedding of the time, without effect at first."""
        *_, last = (module for module in self.time_embedder.modules() if isinstance(module, nn.Linear))
        # What an adapter owns is not in the dtype of the shared, frozen weights.
        dtype = last.weight.dtype if self.backbone is self else torch.float32
        return kind(last.out_features).to(last.weight.device, dtype)

    def with_inputs(self, embedding: Tensor, t: Tensor, condition: Condition, s: Tensor | None) -> Tensor:
        """What the added inputs make of the embedding (B, width) of ``t``; without such inputs it is that.

        Raises:
            UserError: If ``s`` is given to a network without that input.
        """
        if self.second_time is not None:
            embedding = self.second_time.into(embedding, self, t, t if s is None else s)
        elif s is not None:
            raise UserError(
                f"{type(self).__name__} has no second time input; call add_second_time(), as two-time methods do, or "
                "set second_time: true where that is an option."
            )
        if self.guidance_input is not None and "guidance" in condition:
            embedding = embedding + self.guidance_input(condition["guidance"]).to(embedding.dtype)
        return embedding

    @contextmanager
    def added_inputs(self, t: Tensor, condition: Condition, s: Tensor | None) -> Iterator[None]:
        """Inside, :attr:`time_embedder` returns its embedding with the added inputs."""
        if self.second_time is None and self.guidance_input is None and s is None:
            yield
            return
        handle = self.time_embedder.register_forward_hook(
            lambda _, inputs, output: self.with_inputs(output, t, condition, s)
        )
        try:
            yield
        finally:
            handle.remove()

    def time_features(self, t: Tensor) -> Tensor:
        """What :attr:`time_embedder` is called with for times ``t`` (B,), before any other number: (B, F)."""
        raise UserError(
            f"{type(self).__name__} has no embedder of diffusers for its times that a second one could be a copy of; "
            "set second_time to NoiseAngles."
        )

    def null_condition(self, condition: Condition) -> Condition:
        """The unconditional counterpart of ``condition``, for guidance."""
        if condition:
            raise UserError(
                f"{type(self).__name__} was not trained without a condition, so it cannot be guided; "
                "set the guidance scale to 1."
            )
        return condition

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float | Tensor) -> Prediction:
        """The guided prediction: ``uncond + scale (cond - uncond)`` unless the family samples otherwise.

        Teachers are guided so in solvers and in losses; ``scale`` is a number, or one for each sample (B,).
        """
        return conditional.guided(unconditional, scale)

    def example_condition(self, count: int, device: torch.device | str = "cpu") -> Condition:
        """Any valid condition for ``count`` samples, e.g. to probe shapes."""
        return {"label": torch.zeros(count, dtype=torch.int64, device=device)} if self.num_classes else {}

    def make_codec(self) -> Codec:
        """The codec that belongs to this network's weights."""
        return Codec()

    @property
    def backbone(self) -> Denoiser:
        """The network whose submodules :attr:`feature_path` names; another one for an adapter on a shared network."""
        return self

    @property
    def time_embedder(self) -> nn.Module:
        """The module whose output, (B, width), tells the network the time; its last linear layer has that width."""
        return self.backbone.get_submodule(self.time_path)

    @property
    def time_path(self) -> str:
        """Module path of :attr:`time_embedder`."""
        raise UserError(
            f"{type(self).__name__} cannot take a second time or a guidance input, for it names no embedding of its "
            "time; use another network, or set guidance.embedded to false."
        )

    @property
    def feature_path(self) -> str:
        """Module path whose output a discriminator reads by default (the bottleneck)."""
        raise UserError(f"{type(self).__name__} names no feature layer; give the discriminator a 'layer'.")

    def encoder_parts(self) -> list[nn.Module]:
        """The modules of a U-Net before its decoder, whose outputs can be given again."""
        raise UserError(
            f"{type(self).__name__} is no U-Net, so no encoder of it can be left out; take BlockCache for a "
            "transformer of diffusers, or Euler."
        )

    def load_weights(self) -> None:
        """Fill the parameters from ``self.weights``; nothing happens if it is ``None``.

        Raises:
            UserError: If the file is missing, broken or belongs to another architecture.
        """
        if self.weights is None:
            return
        tensors, _ = load_tensors(self.weights)
        load_strictly(self, tensors, self.weights)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """``load_state_dict`` whose failure is one sentence.

    Raises:
        UserError: If names, shapes or kinds of numbers differ.
    """
    if wrong := misfits(module.state_dict(), tensors):
        raise UserError(
            f"'{source}' does not fit {type(module).__name__}: {len(wrong)} tensors differ in name, shape or kind of "
            f"number, first '{wrong[0]}'; give the file of this architecture or change the architecture's arguments."
        )
    with torch.no_grad():
        module.load_state_dict(dict(tensors))
