"""FLUX.2 [klein] in the diffusers format, base and distilled.

Source: Black Forest Labs 2025, github.com/black-forest-labs/flux2; the layout of folders is that of diffusers'
``Flux2KleinPipeline``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.denoisers.diffusers.flow_transformers import LongPromptCodec
from fastgen.denoisers.diffusers.packing import pack, unpack
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.schedulers import PipelineFlow, flow_from_scheduler, shifted
from fastgen.denoisers.images.base import ImageTransformer, places
from fastgen.processes import Process

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
"""Qwen3's chat with a question and a thought that is over."""
LAYERS = (9, 18, 27)
"""Hidden states of Qwen3 that the network reads side by side."""
MANY = 50
"""Calls of the base model's sampler, at which laws of time are shifted."""


@dataclass(frozen=True)
class EmpiricalFlow(PipelineFlow):
    """Rectified flow whose grids are shifted by the number of tokens and of calls.

    Args:
        tokens: Of a sample.
    """

    tokens: int = 4096

    def solver_grid(self, steps: int) -> list[float]:
        """The pipeline's sigmas for ``steps`` calls."""
        shift = math.exp(empirical_mu(self.tokens, steps))
        return [shifted(1.0 - (1.0 - 1.0 / steps) * i / max(steps - 1, 1), shift) for i in range(steps)]


def empirical_mu(tokens: int, steps: int) -> float:
    """Logarithm of the shift for an image of ``tokens`` in ``steps`` calls, as FLUX.2 samples.

    Linear in both, fitted by its authors for 10 and for 200 calls; large images have that of 200.
    """
    many = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    return many + (steps - 200) * (many - few) / 190.0


class Flux2KleinCodec(LongPromptCodec):
    """VAE and Qwen3 of a FLUX.2 [klein] pipeline; latents are normalised after 2 x 2 of them became one."""

    layers = LAYERS

    def vae_class(self) -> Any:
        from diffusers import AutoencoderKLFlux2

        return AutoencoderKLFlux2

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Three hidden states of the chat side by side, padding included."""
        from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

        chats = [CHAT.format(prompt) for prompt in prompts]
        tokens = self.tokenize("tokenizer", Qwen2Tokenizer, chats, self.max_tokens)
        encoder = self.module("text_encoder", Qwen3ForCausalLM)
        states = encoder(
            tokens.input_ids, tokens.attention_mask, output_hidden_states=True, use_cache=False
        ).hidden_states
        return {"prompt_embeds": torch.cat([states[layer].float() for layer in self.layers], dim=-1)}

    def encode(self, images: Tensor) -> Tensor:
        vae = self.vae()
        with self.full_precision():
            latents = vae.encode(images.to(vae.dtype)).latent_dist.mode().float()
        mean, std = self.statistics(latents)
        return (grown(latents) - mean) / std

    def decode(self, x0: Tensor) -> Tensor:
        vae = self.vae()
        mean, std = self.statistics(x0)
        with self.full_precision():
            return vae.decode(shrunk(x0 * std + mean).to(vae.dtype)).sample.float()

    def statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the VAE's batch norm, for 2 x 2 latents as one."""
        vae = self.vae()
        mean, variance = (value.reshape(1, -1, 1, 1).float() for value in (vae.bn.running_mean, vae.bn.running_var))
        return mean, (variance + vae.config.batch_norm_eps).sqrt()


def grown(latents: Tensor) -> Tensor:
    """Latents (B, C, H, W) with 2 x 2 as one, (B, 4 C, H/2, W/2): channel first, then row and column."""
    height, width = latents.shape[-2:]
    return pack(latents).transpose(1, 2).unflatten(2, (height // 2, width // 2))


def shrunk(latents: Tensor) -> Tensor:
    """The inverse of :func:`grown`."""
    return unpack(latents.flatten(2).transpose(1, 2), 2 * latents.shape[-2], 2 * latents.shape[-1])


class Flux2Klein(ImageTransformer):
    """The transformer of FLUX.2 [klein]: a rectified flow, called with ``t`` in [0, 1].

    Samples are maps (128, h, w) of 2 x 2 latents of the VAE each; a place is a token. Conditions: ``prompt_embeds``
    (B, L, D) and ``null_prompt_embeds``. Distilled models want guidance scales of 1.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``black-forest-labs/FLUX.2-klein-base-4B``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is 1024.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        max_tokens: Length of prompts with the words of the chat around them; longer ones are cut.
        text_dtype: What the text encoder computes in; ``bfloat16`` halves its memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the empty prompt.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read or the scheduler is not one for flows.
    """

    kind = "Flux2Transformer2DModel"
    codec = Flux2KleinCodec
    patch = 1
    time_scale = 1000.0
    """Applied by the network itself."""

    def process_of(self, scheduler: Mapping[str, Any], source: str, tokens: int) -> Process:
        """With a dynamic shift, the empirical one of the pipeline."""
        plain = flow_from_scheduler(scheduler, source, tokens, even=True)
        if not scheduler.get("use_dynamic_shifting"):
            return plain
        return EmpiricalFlow(math.exp(empirical_mu(tokens, MANY)), tokens=tokens)

    def pixels_per_latent(self, pipeline: PipelineFolder) -> int:
        from diffusers import AutoencoderKLFlux2

        return 2 ** len(pipeline.config("vae", AutoencoderKLFlux2)["block_out_channels"])

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - x0`` as a map."""
        height, width = x_t.shape[-2:]
        text = condition["prompt_embeds"]
        words = torch.zeros(text.shape[1], 4, device=x_t.device)
        words[:, 3] = torch.arange(len(words), device=x_t.device)
        tokens = self.network(
            hidden_states=x_t.flatten(2).transpose(1, 2),
            timestep=t,
            guidance=None,
            encoder_hidden_states=text,
            txt_ids=words,
            img_ids=places(height, width, 4, 1, x_t.device),
        ).sample
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, self.network.config.joint_attention_dim)}

    def call_options(self, pipe: Any) -> dict[str, Any]:
        options = super().call_options(pipe)
        sides = {name: 2 * options[name] for name in ("height", "width")}
        return options | sides | {"max_sequence_length": self.max_tokens}

    @property
    def time_path(self) -> str:
        return "transformer.time_guidance_embed.timestep_embedder"

    @property
    def sinusoids_path(self) -> str:
        return "transformer.time_guidance_embed.time_proj"

    @property
    def feature_path(self) -> str:
        """The image tokens in the last of the two-stream blocks; the block itself gives the text first."""
        return f"transformer.transformer_blocks.{len(self.network.transformer_blocks) - 1}.norm2"
