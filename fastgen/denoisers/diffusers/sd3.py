"""Stable Diffusion 3 and 3.5 in the diffusers format: transformer as a denoiser, VAE and three encoders as its codec.

Source: Esser et al. 2024, arXiv 2403.03206; the layout of folders is that of diffusers' ``StableDiffusion3Pipeline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.flow_transformers import FlowTransformer, LongPromptCodec
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import latent_sides
from fastgen.denoisers.diffusers.text import penultimate_clip, t5
from fastgen.errors import UserError
from fastgen.sizes import height_and_width


class StableDiffusion3(FlowTransformer):
    """The transformer of SD3 or SD3.5: a rectified flow, called with ``1000 t``.

    Shift and grid are the scheduler's: many-step solvers call the network where the pipeline does. Conditions:
    ``prompt_embeds`` (B, L, D) and ``pooled_prompt_embeds`` (B, P) with their ``null_`` counterparts.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``stabilityai/stable-diffusion-3.5-medium``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files, e.g. ``fp16`` for half the download; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is that of the transformer's training.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        max_tokens: Length of T5's part of the prompt.
        text_dtype: What the text encoders compute in; ``bfloat16`` halves their memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the family's empty prompt.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read or the scheduler is not one for flows.
    """

    time_scale = 1000.0

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        resolution: int | Literal["trained"] = "trained",
        height: int | None = None,
        width: int | None = None,
        max_tokens: int = 256,
        text_dtype: TextDtype = "float32",
        gradient_checkpointing: bool = False,
        negative_prompt: str | None = None,
        lora: str | None = None,
    ) -> None:
        checks.whole(self, max_tokens=max_tokens)
        from diffusers import SD3Transformer2DModel

        pipeline = PipelineFolder(pretrained, revision, variant)
        transformer = pipeline.network("transformer", SD3Transformer2DModel)
        config, factor = transformer.config, pipeline.latent_factor
        patch, largest = config.patch_size, config.pos_embed_max_size
        size = height_and_width(self, resolution, height, width, trained=config.sample_size * factor)
        rows, columns = latent_sides(pretrained, size, factor, patch)
        if largest is not None and max(rows, columns) > largest * patch:
            raise UserError(
                f"'{pretrained}' knows positions of up to {largest * patch * factor} pixels along a side, got "
                f"{size[0]}x{size[1]} (height x width); give smaller images."
            )
        tokens = (rows // patch) * (columns // patch)
        shape = (config.in_channels, rows, columns)
        super().__init__(pipeline, transformer, shape, tokens, max_tokens, text_dtype, gradient_checkpointing)
        self.negative_prompt = negative_prompt
        self.lora = lora

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - x0``."""
        return self.network(
            hidden_states=x_t,
            timestep=self.time_scale * t,
            encoder_hidden_states=condition["prompt_embeds"],
            pooled_projections=condition["pooled_prompt_embeds"],
        ).sample

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.network.config
        return {
            "prompt_embeds": (1, config.joint_attention_dim),
            "pooled_prompt_embeds": (config.pooled_projection_dim,),
        }

    def call_options(self, pipe: Any) -> dict[str, Any]:
        return super().call_options(pipe) | {"max_sequence_length": self.max_tokens}

    def make_codec(self) -> StableDiffusion3Codec:
        """VAE and text encoders of the same pipeline."""
        return StableDiffusion3Codec(
            self.pipeline, self.text_dtype, self.max_tokens, negative_prompt=self.negative_prompt
        )

    @property
    def feature_path(self) -> str:
        """The image tokens in the middle block; the block itself gives the text first."""
        return f"transformer.transformer_blocks.{len(self.network.transformer_blocks) // 2}.norm2"


class StableDiffusion3Codec(LongPromptCodec):
    """VAE, both CLIP text encoders and T5 of an SD3 pipeline; without T5 its part of the prompt is zeros."""

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Penultimate hidden states of both CLIPs side by side, T5's after them; both pooled outputs side by side."""
        from diffusers import SD3Transformer2DModel

        first, pooled = penultimate_clip(self, prompts, 1, projected=True)
        second, pooled_2 = penultimate_clip(self, prompts, 2, projected=True)
        clip = torch.cat([first, second], dim=-1)
        if self.pipeline.has("text_encoder_3"):
            long = t5(self, prompts, 3, self.max_tokens)
        else:
            width = self.pipeline.config("transformer", SD3Transformer2DModel)["joint_attention_dim"]
            long = clip.new_zeros(len(clip), self.max_tokens, width)
        clip = F.pad(clip, (0, long.shape[-1] - clip.shape[-1]))
        return {
            "prompt_embeds": torch.cat([clip, long], dim=1),
            "pooled_prompt_embeds": torch.cat([pooled, pooled_2], dim=-1),
        }
