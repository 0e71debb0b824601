"""A tiny Wan pipeline with random weights, for tests without downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoisers import tiny_parts


def umt5(width: int = 32) -> Any:
    """A UMT5 encoder of one layer."""
    from transformers import UMT5Config, UMT5EncoderModel

    size = len(tiny_parts.t5_tokenizer())
    return UMT5EncoderModel(UMT5Config(vocab_size=size, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=4))


def write_tiny_wan(
    folder: Path, seed: int = 0, boundary: float | None = None, unipc: bool = False, expand: bool = False, **more: Any
) -> Path:
    """Write a pipeline in the format of Wan 2.1 text-to-video: shift 5, the VAE halves once in space and time.

    Args:
        folder: Where to write; made if needed.
        seed: Seed of the weights.
        boundary: Where the two experts of Wan 2.2 meet; None is Wan 2.1.
        unipc: The released scheduler, reduced to first order, in place of Euler.
        expand: Whether its pipeline tells a time for every token (Wan 2.2 TI2V-5B).
        more: Entries of the scheduler's configuration to change.
    """
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    def make() -> WanPipeline:
        transformer = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )
        vae = AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 2.0, 1.0],
            scale_factor_temporal=2,
            scale_factor_spatial=2,
        )
        first_order = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
        first_order |= {"solver_order": 1, "disable_corrector": list(range(100))}
        scheduler = (
            UniPCMultistepScheduler(**{**first_order, **more})
            if unipc
            else FlowMatchEulerDiscreteScheduler(**{"shift": 5.0, **more})
        )
        return WanPipeline(
            transformer=transformer,
            vae=vae,
            text_encoder=umt5(),
            tokenizer=tiny_parts.t5_tokenizer(),
            scheduler=scheduler,
            boundary_ratio=boundary,
            expand_timesteps=expand,
        )

    return tiny_parts.save(folder, seed, make)
