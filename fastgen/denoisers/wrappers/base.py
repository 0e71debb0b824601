"""Wrapper: a denoiser that asks another one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.wrappers.second_time import NoiseAngles, SecondTimeForm
from fastgen.processes import Prediction, PredictionKind, Process


class Wrapper(Denoiser):
    """Whatever a subclass does not change is as with the network that it wraps.

    Args:
        wrapped: That network.
        process: The process of what is asked, or that of the network.
        prediction: The kind of the answer, or that of the network.
    """

    def __init__(
        self,
        wrapped: Denoiser,
        process: Process | Literal["wrapped"] = "wrapped",
        prediction: PredictionKind | Literal["wrapped"] = "wrapped",
    ) -> None:
        process = wrapped.process if isinstance(process, str) else process
        super().__init__(process, wrapped.prediction if prediction == "wrapped" else prediction, wrapped.sample_shape)
        self.num_classes = wrapped.num_classes
        self.takes_prompts = wrapped.takes_prompts

    @property
    @abstractmethod
    def wrapped(self) -> Denoiser:
        """The network that is asked."""

    @property
    def takes_second_time(self) -> bool:
        return self.wrapped.takes_second_time

    def add_second_time(self, form: SecondTimeForm = NoiseAngles()) -> None:
        self.wrapped.add_second_time(form)

    @property
    def takes_guidance(self) -> bool:
        return self.wrapped.takes_guidance

    @property
    def guided_by_input(self) -> bool:
        return self.wrapped.guided_by_input

    def add_guidance_input(self) -> None:
        self.wrapped.add_guidance_input()

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float | Tensor) -> Prediction:
        return self.wrapped.guide(conditional, unconditional, scale)

    def null_condition(self, condition: Condition) -> Condition:
        return self.wrapped.null_condition(condition)

    def example_condition(self, count: int, device: torch.device | str = "cpu") -> Condition:
        return self.wrapped.example_condition(count, device)

    def make_codec(self) -> Codec:
        return self.wrapped.make_codec()

    def load_weights(self) -> None:
        self.wrapped.load_weights()
