"""A tiny FLUX.1 pipeline with random weights, for tests without downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoisers import tiny_parts
from denoisers.tiny_sd import tiny_tokenizer


def write_tiny_flux(folder: Path, seed: int = 0, guidance: bool = True, **scheduler: Any) -> Path:
    """Write a pipeline in the format of FLUX.1-dev: dynamic shift, guidance as an input, latents packed 2 x 2.

    Args:
        folder: Where to write; made if needed.
        seed: Seed of the weights.
        guidance: Whether the transformer is told a guidance scale (dev) or not (schnell).
        scheduler: Entries of the scheduler's configuration to change.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    settings = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}

    def make() -> FluxPipeline:
        transformer = FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 6, 6),
        )
        return FluxPipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(**{**settings, **scheduler}),
            vae=tiny_parts.vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False),
            text_encoder=tiny_parts.clip(),
            tokenizer=tiny_tokenizer(),
            text_encoder_2=tiny_parts.t5(),
            tokenizer_2=tiny_parts.t5_tokenizer(),
        )

    return tiny_parts.save(folder, seed, make)
