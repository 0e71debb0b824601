"""ImageTransformer: what text-to-image transformers share, so that a family's file holds what is its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.flow_transformers import FlowTransformer, LongPromptCodec
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import latent_sides
from fastgen.sizes import height_and_width


class ImageTransformer(FlowTransformer):
    """A text-to-image transformer in the diffusers format.

    A family says what its network is called, how it is called, and which conditions its codec makes.

    Args:
        pretrained: Local pipeline folder, or hub id.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is that of the family's training.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        max_tokens: Longer prompts are cut.
        text_dtype: What the text encoders compute in; ``bfloat16`` halves their memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the family's empty prompt.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read, or the scheduler is not one for the family.
    """

    kind: ClassVar[str]
    """The network's class in diffusers."""
    codec: ClassVar[Callable[..., LongPromptCodec]]
    """The class of the family's codec."""
    patch: ClassVar[int] = 2
    """Latents per token, along a side."""
    even = True

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        resolution: int | Literal["trained"] = "trained",
        height: int | None = None,
        width: int | None = None,
        max_tokens: int = 512,
        text_dtype: TextDtype = "float32",
        gradient_checkpointing: bool = False,
        negative_prompt: str | None = None,
        lora: str | None = None,
    ) -> None:
        checks.whole(self, max_tokens=max_tokens)
        import diffusers

        pipeline = PipelineFolder(pretrained, revision, variant)
        network = pipeline.network("transformer", getattr(diffusers, self.kind))
        factor = self.pixels_per_latent(pipeline)
        size = height_and_width(self, resolution, height, width, trained=self.trained_side(network.config, factor))
        rows, columns = latent_sides(pretrained, size, factor, self.patch)
        shape = (self.channels(network.config), rows, columns)
        super().__init__(
            pipeline, network, shape, self.tokens_of(shape), max_tokens, text_dtype, gradient_checkpointing
        )
        self.negative_prompt = negative_prompt
        self.lora = lora

    def pixels_per_latent(self, pipeline: PipelineFolder) -> int:
        """Pixels along a side of a latent."""
        return pipeline.latent_factor

    def trained_side(self, config: Any, factor: int) -> int:
        """Side of the images of the family's training, in pixels."""
        return 1024

    def channels(self, config: Any) -> int:
        """Channels of a latent, by the network's configuration."""
        return int(config.in_channels)

    def tokens_of(self, shape: tuple[int, int, int]) -> int:
        """Number of tokens of a sample, by which the pipeline chooses a dynamic shift."""
        return (shape[1] // self.patch) * (shape[2] // self.patch)

    def make_codec(self) -> LongPromptCodec:
        """VAE and text encoders of the same pipeline."""
        make = type(self).codec
        return make(self.pipeline, self.text_dtype, self.max_tokens, negative_prompt=self.negative_prompt)


def places(rows: int, columns: int, width: int, first: int, device: torch.device) -> Tensor:
    """Positions of the tokens of an image, (rows columns, width): row and column from entry ``first``, else zeros."""
    ids = torch.zeros(rows, columns, width, device=device)
    ids[..., first] = torch.arange(rows, device=device)[:, None]
    ids[..., first + 1] = torch.arange(columns, device=device)
    return ids.reshape(-1, width)
