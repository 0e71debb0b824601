"""SANA and SANA-1.5 in the diffusers format: linear attention on the strongly compressed latents of DC-AE.

Source: Xie et al. 2024, arXiv 2410.10629; the layout of folders is that of diffusers' ``SanaPipeline``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.flow_transformers import LongPromptCodec
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.images.base import ImageTransformer


class SanaCodec(LongPromptCodec):
    """DC-AE and Gemma 2 of a SANA pipeline."""

    def vae_class(self) -> Any:
        from diffusers import AutoencoderDC

        return AutoencoderDC

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents; the autoencoder has no posterior."""
        vae = self.vae()
        with self.full_precision():
            latents = vae.encode(images.to(vae.dtype)).latent.float()
        mean, std = self.statistics(latents)
        return (latents - mean) / std

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Hidden states of the prompts behind the instruction to enhance them: the first token and the last ones."""
        from diffusers import SanaPipeline

        instruction = "\n".join(
            inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
        )
        return self.states([instruction + prompt.lower().strip() for prompt in prompts], instruction)

    def embed_negative(self, prompt: str) -> dict[str, Tensor]:
        """Without the instruction."""
        return self.states([prompt.lower().strip()], "")

    def states(self, texts: Sequence[str], instruction: str) -> dict[str, Tensor]:
        """Hidden states and mask of ``texts``, as many as ``max_tokens`` beside those of the ``instruction``."""
        from transformers import Gemma2Model, GemmaTokenizer

        length = self.max_tokens
        if instruction:
            self.tokenizers.setdefault("tokenizer", self.pipeline.tokenizer("tokenizer", GemmaTokenizer))
            length += len(self.tokenizers["tokenizer"].encode(instruction)) - 2
        tokens = self.tokenize(
            "tokenizer", GemmaTokenizer, texts, length, length - self.max_tokens, padding_side="right"
        )
        mask = tokens.attention_mask
        hidden = self.module("text_encoder", Gemma2Model)(tokens.input_ids, attention_mask=mask)[0]
        kept = torch.tensor([0, *range(length - self.max_tokens + 1, length)], device=mask.device)
        return {"prompt_embeds": hidden[:, kept].float(), "prompt_mask": mask[:, kept].bool()}


class Sana(ImageTransformer):
    """The transformer of SANA: a rectified flow, called with ``1000 t``.

    Samples are latents (32, h, w) of 32 x 32 pixels. Conditions: ``prompt_embeds`` (B, L, D) and ``prompt_mask``
    (B, L) with their ``null_`` counterparts, which are embedded without the instruction that prompts follow. The
    pipeline's DPM-Solver is of second order; ours on its grid are those of :mod:`fastgen.sampling.solvers`. SANA-Sprint
    is not this family, but a student of it.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers``.
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
        UserError: If a configuration cannot be read or the scheduler is not one for flows.
    """

    kind = "SanaTransformer2DModel"
    codec = SanaCodec
    patch = 1
    even = False
    time_scale = 1000.0

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

    def pixels_per_latent(self, pipeline: PipelineFolder) -> int:
        from diffusers import AutoencoderDC

        return 2 ** (len(pipeline.config("vae", AutoencoderDC)["encoder_block_out_channels"]) - 1)

    def trained_side(self, config: Any, factor: int) -> int:
        return int(config.sample_size) * factor

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - x0``."""
        return self.network(
            x_t,
            encoder_hidden_states=condition["prompt_embeds"],
            encoder_attention_mask=condition["prompt_mask"],
            timestep=self.time_number(t),
        ).sample

    def time_number(self, t: Tensor) -> Tensor:
        return self.time_scale * float(self.network.config.timestep_scale) * t

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, self.network.config.caption_channels), "prompt_mask": (1,)}

    def call_options(self, pipe: Any) -> dict[str, Any]:
        more = {"max_sequence_length": self.max_tokens, "use_resolution_binning": False}
        return super().call_options(pipe) | more

    @property
    def time_path(self) -> str:
        return "transformer.time_embed.emb.timestep_embedder"

    @property
    def sinusoids_path(self) -> str:
        return "transformer.time_embed.emb.time_proj"

    @property
    def feature_path(self) -> str:
        return f"transformer.transformer_blocks.{len(self.network.transformer_blocks) // 2}"
