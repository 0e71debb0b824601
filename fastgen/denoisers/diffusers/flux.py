"""FLUX.1 in the diffusers format: the transformer as a denoiser, VAE, CLIP and T5 as its codec.

Source: Black Forest Labs 2024, github.com/black-forest-labs/flux; the layout of folders is that of diffusers'
``FluxPipeline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.flow_transformers import FlowTransformer, LongPromptCodec
from fastgen.denoisers.diffusers.packing import pack, unpack
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import latent_sides
from fastgen.denoisers.diffusers.text import t5
from fastgen.sizes import height_and_width


class Flux(FlowTransformer):
    """The transformer of FLUX.1 (dev or schnell): a rectified flow, called with ``t`` in [0, 1].

    Samples are latent maps (16, h, w); they are packed to tokens for the network alone. Conditions: ``prompt_embeds``
    (B, L, D) and ``pooled_prompt_embeds`` (B, P) with their ``null_`` counterparts. FLUX.1-dev has guidance distilled
    into it, as an input: keep guidance scales at 1 and set ``embedded_guidance``.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``black-forest-labs/FLUX.1-dev``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is 1024.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        embedded_guidance: The guidance scale that the network is told where ``condition["guidance"]`` (B,) says none; a
            network without that input ignores it.
        max_tokens: Length of T5's prompt; schnell was trained with 256.
        text_dtype: What the text encoders compute in; ``bfloat16`` halves their memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the family's empty prompt.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read or the scheduler is not one for flows.
    """

    even = True
    time_scale = 1000.0
    """Applied by the network itself, to time and guidance scale."""

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        resolution: int | Literal["trained"] = "trained",
        height: int | None = None,
        width: int | None = None,
        embedded_guidance: float = 3.5,
        max_tokens: int = 512,
        text_dtype: TextDtype = "float32",
        gradient_checkpointing: bool = False,
        negative_prompt: str | None = None,
        lora: str | None = None,
    ) -> None:
        checks.not_negative(self, embedded_guidance=embedded_guidance)
        checks.whole(self, max_tokens=max_tokens)
        from diffusers import FluxTransformer2DModel

        pipeline = PipelineFolder(pretrained, revision, variant)
        transformer = pipeline.network("transformer", FluxTransformer2DModel)
        factor = pipeline.latent_factor
        size = height_and_width(self, resolution, height, width, trained=1024)
        rows, columns = latent_sides(pretrained, size, factor, patch=2)
        shape = (transformer.config.in_channels // 4, rows, columns)
        tokens = (rows // 2) * (columns // 2)
        super().__init__(pipeline, transformer, shape, tokens, max_tokens, text_dtype, gradient_checkpointing)
        self.negative_prompt = negative_prompt
        self.lora = lora
        self.embedded_guidance = embedded_guidance

    @property
    def takes_guidance(self) -> bool:
        return super().takes_guidance or self.network.config.guidance_embeds

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - x0`` as a latent map."""
        height, width = x_t.shape[-2:]
        text = condition["prompt_embeds"]
        tokens = self.network(
            hidden_states=pack(x_t),
            timestep=t,
            guidance=self.told(t, condition) if self.network.config.guidance_embeds else None,
            encoder_hidden_states=text,
            pooled_projections=condition["pooled_prompt_embeds"],
            txt_ids=torch.zeros(text.shape[1], 3, device=x_t.device),
            img_ids=positions(height // 2, width // 2, x_t.device),
        ).sample
        return unpack(tokens, height, width)

    def told(self, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The guidance scale of every sample, (B,) in fp32."""
        return condition.get("guidance", torch.full_like(t, self.embedded_guidance)).float()

    @property
    def number_paths(self) -> tuple[str, ...]:
        guidance = ("transformer.time_text_embed.guidance_embedder",) if self.network.config.guidance_embeds else ()
        return (*super().number_paths, *guidance)

    def numbers(self, t: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        guidance = (self.time_scale * self.told(t, condition),) if self.network.config.guidance_embeds else ()
        return (*super().numbers(t, condition), *guidance)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.network.config
        return {
            "prompt_embeds": (1, config.joint_attention_dim),
            "pooled_prompt_embeds": (config.pooled_projection_dim,),
        }

    def call_options(self, pipe: Any) -> dict[str, Any]:
        """The pipeline calls the embedded guidance ``guidance_scale``."""
        told = {"guidance_scale": self.embedded_guidance, "max_sequence_length": self.max_tokens}
        return super().call_options(pipe) | told

    def make_codec(self) -> FluxCodec:
        """VAE and text encoders of the same pipeline."""
        return FluxCodec(self.pipeline, self.text_dtype, self.max_tokens, negative_prompt=self.negative_prompt)

    @property
    def feature_path(self) -> str:
        """The image tokens in the last of the two-stream blocks; the block itself gives the text first."""
        return f"transformer.transformer_blocks.{len(self.network.transformer_blocks) - 1}.norm2"


def positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """``(0, row, column)`` of every token, (rows columns, 3)."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).float().to(device)


class FluxCodec(LongPromptCodec):
    """VAE, CLIP (pooled only) and T5 of a FLUX.1 pipeline."""

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """T5's hidden states and CLIP's pooled output."""
        from transformers import CLIPTextModel, CLIPTokenizer

        tokens = self.tokenize("tokenizer", CLIPTokenizer, prompts)
        pooled = self.module("text_encoder", CLIPTextModel)(tokens.input_ids).pooler_output.float()
        return {"prompt_embeds": t5(self, prompts, 2, self.max_tokens), "pooled_prompt_embeds": pooled}
