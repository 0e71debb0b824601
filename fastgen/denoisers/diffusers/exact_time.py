"""Times and guidance scales reach a diffusers network in fp32, whatever the precision of its layers.

bf16 has 8 significant bits: it cannot tell the steps 500 and 501 apart. Yet networks of diffusers 0.42 cast the time to
the dtype of their layers (FLUX, Qwen-Image), or its sinusoids (all others). Here the first embedding is computed in
fp32 and rounded once, when it is done; names of parameters, weights and answers in fp32 stay what they are.

Imports diffusers, so it is itself imported only where a network of diffusers is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from fastgen.denoisers.wrappers.exact_linear import ExactLinear, outside_autocast


class ExactEmbedding(TimestepEmbedding):
    """An embedding of features (B, F) whose layers compute in fp32 also under autocast, with what adapters add to them.

    It answers in the dtype of the features.
    """

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        with outside_autocast(sample):
            return super().forward(sample, condition).to(sample.dtype)


class ExactSequential(nn.Sequential):
    """The same for embedders that are plain sequences of layers (Z-Image)."""

    def forward(self, input: Tensor) -> Tensor:
        with outside_autocast(input):
            answer: Tensor = super().forward(input)
            return answer.to(input.dtype)


def make_exact(embedder: nn.Module) -> None:
    """Let ``embedder`` compute in fp32, in place: it and its linear layers keep their names, weights and hooks.

    A module that has no layers of its own, but makes features of the number, is left as it is.
    """
    for module in embedder.modules():
        if type(module) is nn.Linear:
            module.__class__ = ExactLinear
    for plain, exact in ((TimestepEmbedding, ExactEmbedding), (nn.Sequential, ExactSequential)):
        if type(embedder) is plain:
            embedder.__class__ = exact


@contextmanager
def told(features: Mapping[nn.Module, Tensor], dtype: torch.dtype) -> Iterator[None]:
    """Inside, embedders see the ``features`` (B, F) given for them, not what their network made of a rounded number.

    Args:
        features: The sinusoids of exact numbers by embedder, fp32.
        dtype: What the network's layers compute in; embeddings are rounded to it.
    """
    wide = torch.promote_types(dtype, torch.float32)
    with ExitStack() as hooks:
        for embedder, exact in features.items():

            def see(_: nn.Module, inputs: tuple[Tensor, ...], exact: Tensor = exact.to(wide)) -> tuple[Tensor, ...]:
                return exact, *inputs[1:]

            hooks.enter_context(embedder.register_forward_pre_hook(see))
            hooks.enter_context(embedder.register_forward_hook(lambda _, inputs, output: output.to(dtype)))
        yield
