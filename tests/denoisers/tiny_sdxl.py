"""A tiny SDXL pipeline with random weights, for tests without downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoisers import tiny_parts
from denoisers.tiny_sd import tiny_tokenizer


def write_tiny_sdxl(folder: Path, seed: int = 0, force_zeros: bool = True, **scheduler: Any) -> Path:
    """Write a pipeline in the format of SDXL base: Euler scheduler, leading steps with offset 1, pooled width 24.

    Args:
        folder: Where to write; made if needed.
        seed: Seed of the weights.
        force_zeros: Whether no prompt means zeros.
        scheduler: Entries of the scheduler's configuration to change.
    """
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }

    def make() -> StableDiffusionXLPipeline:
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=(4, 8),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
            norm_num_groups=8,
        )
        return StableDiffusionXLPipeline(
            vae=tiny_parts.vae(scaling_factor=0.13025),
            text_encoder=tiny_parts.clip(),
            text_encoder_2=tiny_parts.clip(projection=24),
            tokenizer=tiny_tokenizer(),
            tokenizer_2=tiny_tokenizer(),
            unet=unet,
            scheduler=EulerDiscreteScheduler(**{**settings, **scheduler}),
            force_zeros_for_empty_prompt=force_zeros,
            add_watermarker=False,
        )

    return tiny_parts.save(folder, seed, make)
