"""Chroma1 in the diffusers format: FLUX.1 without a pooled prompt and without a guidance input.

Source: lodestone-rock 2025, huggingface.co/lodestones/Chroma1-HD; the layout of folders is that of diffusers'
``ChromaPipeline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgen.denoisers.diffusers.flow_transformers import LongPromptCodec
from fastgen.denoisers.diffusers.packing import pack, unpack
from fastgen.denoisers.images.base import ImageTransformer, places
from fastgen.errors import UserError


class ChromaCodec(LongPromptCodec):
    """VAE and T5 of a Chroma pipeline."""

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """T5's hidden states, and a mask that is true for the text and for one token of padding."""
        from transformers import T5EncoderModel, T5Tokenizer

        tokens = self.tokenize("tokenizer", T5Tokenizer, prompts, self.max_tokens)
        mask = tokens.attention_mask
        hidden = self.module("text_encoder", T5EncoderModel)(tokens.input_ids, mask)[0]
        there = torch.arange(self.max_tokens, device=mask.device) <= mask.sum(1, keepdim=True)
        return {"prompt_embeds": hidden.float(), "prompt_mask": there}


class Chroma(ImageTransformer):
    """The transformer of Chroma1: a rectified flow, called with ``t`` in [0, 1].

    Samples are latent maps (16, h, w). Conditions: ``prompt_embeds`` (B, L, D) and ``prompt_mask`` (B, L) with their
    ``null_`` counterparts. As diffusers' pipeline hands it over, the mask is a number that is added to the scores of
    attention: 1 where there is text or image, 0 elsewhere. The network makes all its modulations of the time at once,
    so it has no place for a second time or a guidance scale.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``lodestones/Chroma1-HD``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is 1024.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        max_tokens: Length of T5's prompt; longer ones are cut.
        text_dtype: What the text encoder computes in; ``bfloat16`` halves its memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the empty prompt.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read or the scheduler is not one for flows.
    """

    kind = "ChromaTransformer2DModel"
    codec = ChromaCodec
    time_scale = 1000.0
    """Applied by the network itself."""

    def channels(self, config: Any) -> int:
        return int(config.in_channels) // 4

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - x0`` as a latent map."""
        height, width = x_t.shape[-2:]
        text, tokens = condition["prompt_embeds"], pack(x_t)
        mask = condition["prompt_mask"].to(x_t.dtype)
        answer = self.network(
            hidden_states=tokens,
            timestep=t,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=x_t.device),
            img_ids=places(height // 2, width // 2, 3, 1, x_t.device),
            attention_mask=torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1),
        ).sample
        return unpack(answer, height, width)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, self.network.config.joint_attention_dim), "prompt_mask": (1,)}

    def call_options(self, pipe: Any) -> dict[str, Any]:
        return super().call_options(pipe) | {"max_sequence_length": self.max_tokens}

    @property
    def number_paths(self) -> tuple[str, ...]:
        return ("transformer.time_text_embed",)

    def sinusoids(self, number: Tensor) -> Tensor:
        """The network's own module makes them of the exact number."""
        return number

    @property
    def time_path(self) -> str:
        raise UserError(
            "Chroma cannot take a second time or a guidance input, for its network makes all modulations at once; "
            "choose a method without, or another teacher."
        )

    @property
    def feature_path(self) -> str:
        """The image tokens in the last of the two-stream blocks; the block itself gives the text first."""
        return f"transformer.transformer_blocks.{len(self.network.transformer_blocks) - 1}.norm2"
