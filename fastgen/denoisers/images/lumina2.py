"""Lumina-Image 2.0 in the diffusers format.

Source: Qin et al. 2025, arXiv 2503.21758; the layout of folders is that of diffusers' ``Lumina2Pipeline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.flow_transformers import LongPromptCodec
from fastgen.denoisers.images.base import ImageTransformer
from fastgen.processes import Prediction

SYSTEM = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> "
)
"""What stands before every prompt, but not before what guidance leads away from."""


class Lumina2Codec(LongPromptCodec):
    """VAE and Gemma 2 of a Lumina 2 pipeline."""

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The last but one hidden states of the prompts behind the system's, and where there is text."""
        return self.states([SYSTEM + prompt for prompt in prompts])

    def embed_negative(self, prompt: str) -> dict[str, Tensor]:
        """Without the system's."""
        return self.states([prompt])

    def states(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Hidden states and mask of ``texts``."""
        from transformers import Gemma2Model, GemmaTokenizer

        tokens = self.tokenize("tokenizer", GemmaTokenizer, texts, self.max_tokens)
        mask = tokens.attention_mask
        encoder = self.module("text_encoder", Gemma2Model)
        hidden = encoder(tokens.input_ids, attention_mask=mask, output_hidden_states=True).hidden_states[-2]
        return {"prompt_embeds": hidden.float(), "prompt_mask": mask.bool()}


class Lumina2(ImageTransformer):
    """The transformer of Lumina-Image 2.0: a rectified flow, called with ``1 - t``, whose answer is ``x0 - noise``.

    Samples are latent maps (16, h, w). Conditions: ``prompt_embeds`` (B, L, D) and ``prompt_mask`` (B, L) with their
    ``null_`` counterparts.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``Alpha-VLLM/Lumina-Image-2.0``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is that of the transformer's training.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        max_tokens: Longer prompts, with the words of the system before them, are cut.
        text_dtype: What the text encoder computes in; ``bfloat16`` halves its memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the empty prompt.
        keep_norm: Whether guidance leaves each row of the velocity the norm that it has with the prompt, as the
            pipeline samples; without it ``uncond + scale (cond - uncond)``.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read or the scheduler is not one for flows.
    """

    kind = "Lumina2Transformer2DModel"
    codec = Lumina2Codec

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
        keep_norm: bool = True,
        lora: str | None = None,
    ) -> None:
        rest = (max_tokens, text_dtype, gradient_checkpointing, negative_prompt)
        super().__init__(pretrained, revision, variant, resolution, height, width, *rest)
        self.lora = lora
        self.keep_norm = keep_norm

    def trained_side(self, config: Any, factor: int) -> int:
        return int(config.sample_size) * factor

    def tokens_of(self, shape: tuple[int, int, int]) -> int:
        """The pipeline counts channels where others count tokens."""
        return shape[0]

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - x0``."""
        return -self.network(
            hidden_states=x_t,
            timestep=self.time_number(t),
            encoder_hidden_states=condition["prompt_embeds"],
            encoder_attention_mask=condition["prompt_mask"],
        ).sample

    def time_number(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float | Tensor) -> Prediction:
        """Guidance that leaves each row (along the width) the norm that it has with the prompt."""
        plain = conditional.guided(unconditional, scale)
        if not self.keep_norm:
            return plain
        norms = (p.value.norm(dim=-1, keepdim=True) for p in (conditional, plain))
        value = plain.value * (next(norms) / next(norms))
        return Prediction(plain.process, plain.x_t, plain.t, value, plain.kind)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, self.network.config.cap_feat_dim), "prompt_mask": (1,)}

    def call_options(self, pipe: Any) -> dict[str, Any]:
        return super().call_options(pipe) | {"max_sequence_length": self.max_tokens}

    @property
    def time_path(self) -> str:
        return "transformer.time_caption_embed.timestep_embedder"

    @property
    def sinusoids_path(self) -> str:
        return "transformer.time_caption_embed.time_proj"

    @property
    def feature_path(self) -> str:
        """The tokens of the image, before those of the text join them."""
        return f"transformer.noise_refiner.{len(self.network.noise_refiner) - 1}"
