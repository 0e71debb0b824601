"""The contract of every network: a denoiser on a process, and the codec in front of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.errors import UserError
from fastgen.files import load_tensors
from fastgen.processes import Prediction, PredictionKind, Process


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

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        """The raw answer of kind ``self.prediction``, shape of ``x_t``. ``t`` (B,) is a time of ``self.process``.

        ``s`` (B,) is the second time of a flow map, only for networks with that input; ``None`` means ``s = t``.
        """

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition | None = None, s: Tensor | None = None
    ) -> Prediction:
        """Denoise ``x_t`` (B, ...) at times ``t`` (B,) in fp32 or fp64."""
        return Prediction(self.process, x_t, t, self.predict(x_t, t, condition or {}, s), self.prediction)

    @property
    def takes_second_time(self) -> bool:
        """Whether the network has the second time input of flow maps."""
        return False

    def add_second_time(self) -> None:
        """Give the network the second time input of flow maps without changing its function; idempotent."""
        raise UserError(f"{type(self).__name__} cannot take a second time; use another network for a two-time method.")

    def add_guidance_input(self) -> None:
        """Let the network read ``condition["guidance"]`` without changing its function; idempotent."""
        raise UserError(f"{type(self).__name__} has no guidance input; set guidance.embedded to false.")

    def null_condition(self, condition: Condition) -> Condition:
        """The unconditional counterpart of ``condition``, for guidance."""
        if condition:
            raise UserError(
                f"{type(self).__name__} was not trained without a condition, so it cannot be guided; "
                "set the guidance scale to 1."
            )
        return condition

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float) -> Prediction:
        """The guided prediction, ``uncond + scale (cond - uncond)`` unless this network is sampled in another way."""
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
    def feature_path(self) -> str:
        """Module path whose output a discriminator reads by default (the bottleneck)."""
        raise UserError(f"{type(self).__name__} names no feature layer; give the discriminator a 'layer'.")

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
        UserError: If names or shapes differ.
    """
    own = module.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or sorted(k for k in own if own[k].shape != tensors[k].shape)
    if wrong:
        raise UserError(
            f"'{source}' does not fit {type(module).__name__}: {len(wrong)} tensors differ in name or shape, first "
            f"'{wrong[0]}'; give the file that belongs to this architecture or change the architecture's arguments."
        )
    with torch.no_grad():
        module.load_state_dict(dict(tensors))
