"""Z-Image and Z-Image-Turbo in the diffusers format.

Source: Tongyi-MAI 2025, github.com/Tongyi-MAI/Z-Image; the layout of folders is that of diffusers' ``ZImagePipeline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen import checks
from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.flow_transformers import RaggedPromptCodec, padded
from fastgen.denoisers.images.base import ImageTransformer
from fastgen.processes import Prediction
from fastgen.shapes import expand

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
"""Qwen3's chat with a question and nothing said yet."""


class ZImageCodec(RaggedPromptCodec):
    """VAE and Qwen3 of a Z-Image pipeline."""

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The last but one hidden states of the prompts inside the chat, padded with zeros."""
        from transformers import Qwen2Tokenizer, Qwen3Model

        chats = [CHAT.format(prompt) for prompt in prompts]
        tokens = self.tokenize("tokenizer", Qwen2Tokenizer, chats, self.max_tokens)
        mask = tokens.attention_mask.bool()
        encoder = self.module("text_encoder", Qwen3Model)
        hidden = encoder(tokens.input_ids, mask, output_hidden_states=True).hidden_states[-2]
        return padded([states[there] for states, there in zip(hidden, mask, strict=True)])


class ZImage(ImageTransformer):
    """The transformer of Z-Image: a rectified flow, called with ``1 - t``, whose answer is ``x0 - noise``.

    Samples are latent maps (16, h, w). Conditions: ``prompt_embeds`` (B, L, D), padded with zeros, and ``prompt_mask``
    (B, L), true where there is text, with their ``null_`` counterparts of the same L. Guidance scales are counted as
    everywhere here, from ``uncond + scale (cond - uncond)``: the pipeline's ``guidance_scale`` is one less.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``Tongyi-MAI/Z-Image``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is 1024.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        max_tokens: Longer prompts, with the words of the chat around them, are cut.
        text_dtype: What the text encoder computes in; ``bfloat16`` halves its memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the empty prompt.
        norm_limit: Guidance makes the norm of a sample's velocity at most this many times that with the prompt (the
            pipeline's ``cfg_normalization``); 0 is no limit.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read or the scheduler is not one for flows.
    """

    kind = "ZImageTransformer2DModel"
    codec = ZImageCodec

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
        norm_limit: float = 0.0,
        lora: str | None = None,
    ) -> None:
        checks.not_negative(self, norm_limit=norm_limit)
        rest = (max_tokens, text_dtype, gradient_checkpointing, negative_prompt)
        super().__init__(pretrained, revision, variant, resolution, height, width, *rest)
        self.lora = lora
        self.norm_limit = norm_limit

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - x0`` as a latent map."""
        pairs = zip(condition["prompt_embeds"], condition["prompt_mask"], strict=True)
        texts = [embeds[mask] for embeds, mask in pairs]
        (maps,) = self.network(list(x_t.unsqueeze(2).unbind(0)), 1.0 - t, texts, return_dict=False)
        return -torch.stack(list(maps)).squeeze(2)

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float | Tensor) -> Prediction:
        """Plain guidance, whose norm may be limited."""
        plain = conditional.guided(unconditional, scale)
        if self.norm_limit == 0.0:
            return plain
        norm, largest = (p.value.flatten(1).norm(dim=1) for p in (plain, conditional))
        factor = (self.norm_limit * largest / norm).clamp(max=1.0)
        return Prediction(plain.process, plain.x_t, plain.t, plain.value * expand(factor, plain.value), plain.kind)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, self.network.config.cap_feat_dim), "prompt_mask": (1,)}

    def call_options(self, pipe: Any) -> dict[str, Any]:
        """The pipeline's scale of no guidance is 0."""
        return super().call_options(pipe) | {"guidance_scale": 0.0, "max_sequence_length": self.max_tokens}

    @property
    def time_path(self) -> str:
        return "transformer.t_embedder.mlp"

    def time_number(self, t: Tensor) -> Tensor:
        return float(self.network.config.t_scale) * (1.0 - t)

    def sinusoids(self, number: Tensor) -> Tensor:
        """The network makes them in a function, not in a module."""
        embedder = self.network.t_embedder
        features: Tensor = embedder.timestep_embedding(number, embedder.frequency_embedding_size)
        return features

    @property
    def feature_path(self) -> str:
        """The tokens of the image, before those of the text join them."""
        return f"transformer.noise_refiner.{len(self.network.noise_refiner) - 1}"
