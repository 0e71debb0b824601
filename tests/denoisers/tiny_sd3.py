"""A tiny Stable Diffusion 3 pipeline with random weights, for tests without downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoisers import tiny_parts
from denoisers.tiny_sd import tiny_tokenizer


def write_tiny_sd3(folder: Path, seed: int = 0, long_text: bool = True, **scheduler: Any) -> Path:
    """Write a pipeline in the format of SD3: shift 3, four latent channels, two blocks.

    Args:
        folder: Where to write; made if needed.
        seed: Seed of the weights.
        long_text: Whether T5 is there.
        scheduler: Entries of the scheduler's configuration to change.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    def make() -> StableDiffusion3Pipeline:
        transformer = SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=72,
            caption_projection_dim=32,
            pooled_projection_dim=40,
            pos_embed_max_size=16,
        )
        return StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
            vae=tiny_parts.vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False),
            text_encoder=tiny_parts.clip(projection=24),
            tokenizer=tiny_tokenizer(),
            text_encoder_2=tiny_parts.clip(projection=16),
            tokenizer_2=tiny_tokenizer(),
            text_encoder_3=tiny_parts.t5(width=72) if long_text else None,
            tokenizer_3=tiny_parts.t5_tokenizer() if long_text else None,
        )

    return tiny_parts.save(folder, seed, make)
