"""PixArt-Sigma in the diffusers format: a transformer that predicts noise, and its variance beside it.

Source: Chen et al. 2024, arXiv 2403.04692; the layout of folders is that of diffusers' ``PixArtSigmaPipeline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.flow_transformers import LongPromptCodec
from fastgen.denoisers.diffusers.schedulers import PipelineVP
from fastgen.denoisers.images.base import ImageTransformer
from fastgen.processes import Process


class PixArtCodec(LongPromptCodec):
    """VAE and T5 of a PixArt pipeline. Prompts become lower case; the pipeline's cleaning of captions is left out."""

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """T5's hidden states and where there is text."""
        from transformers import T5EncoderModel, T5Tokenizer

        texts = [prompt.lower().strip() for prompt in prompts]
        tokens = self.tokenize("tokenizer", T5Tokenizer, texts, self.max_tokens)
        mask = tokens.attention_mask
        hidden = self.module("text_encoder", T5EncoderModel)(tokens.input_ids, attention_mask=mask)[0]
        return {"prompt_embeds": hidden.float(), "prompt_mask": mask.bool()}


class PixArtSigma(ImageTransformer):
    """The transformer of PixArt-Sigma: variance preserving, called with a step, predicts noise.

    Samples are latent maps (4, h, w). Conditions: ``prompt_embeds`` (B, L, D) and ``prompt_mask`` (B, L) with their
    ``null_`` counterparts. The variance that the network predicts is not used, as in its pipeline.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``PixArt-alpha/PixArt-Sigma-XL-2-1024-MS``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is that of the transformer's training.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        max_tokens: Longer prompts are cut; the released models were trained with 300.
        text_dtype: What the text encoder computes in; ``bfloat16`` halves its memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the empty prompt.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read or the scheduler has no betas.
    """

    kind = "PixArtTransformer2DModel"
    codec = PixArtCodec
    predicts = "noise"

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        resolution: int | Literal["trained"] = "trained",
        height: int | None = None,
        width: int | None = None,
        max_tokens: int = 300,
        text_dtype: TextDtype = "float32",
        gradient_checkpointing: bool = False,
        negative_prompt: str | None = None,
        lora: str | None = None,
    ) -> None:
        rest = (max_tokens, text_dtype, gradient_checkpointing, negative_prompt)
        super().__init__(pretrained, revision, variant, resolution, height, width, *rest)
        self.lora = lora

    def process_of(self, scheduler: Mapping[str, Any], source: str, tokens: int) -> Process:
        """Variance preserving, by the scheduler's betas."""
        return PipelineVP.from_scheduler(scheduler, source)

    def trained_side(self, config: Any, factor: int) -> int:
        return int(config.sample_size) * factor

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The noise."""
        answer: Tensor = self.network(
            x_t,
            encoder_hidden_states=condition["prompt_embeds"],
            encoder_attention_mask=condition["prompt_mask"],
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return answer[:, : x_t.shape[1]]

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, self.network.config.caption_channels), "prompt_mask": (1,)}

    def call_options(self, pipe: Any) -> dict[str, Any]:
        plain = {"use_resolution_binning": False, "clean_caption": False}
        return super().call_options(pipe) | plain | {"max_sequence_length": self.max_tokens}

    @property
    def time_path(self) -> str:
        return "transformer.adaln_single.emb.timestep_embedder"

    @property
    def sinusoids_path(self) -> str:
        return "transformer.adaln_single.emb.time_proj"

    @property
    def feature_path(self) -> str:
        return f"transformer.transformer_blocks.{len(self.network.transformer_blocks) // 2}"
