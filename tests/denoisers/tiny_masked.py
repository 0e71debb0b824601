"""Tiny pipelines of families whose text is masked: Chroma, PixArt, SANA and Lumina 2."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from denoisers import tiny_parts


def gemma_tokenizer() -> Any:
    """Of letters, digits and some marks."""
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581"]
    words = [*special, *string.ascii_letters, *string.digits, *string.punctuation, "\n"]
    return GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], padding_side="left")


def gemma() -> Any:
    """Gemma 2 of two layers."""
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=len(gemma_tokenizer()),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            query_pre_attn_scalar=8,
        )
    )


def flux_vae() -> Any:
    """With a shift, as FLUX.1's."""
    return tiny_parts.vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False)


def write_tiny_chroma(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a pipeline in the format of Chroma: dynamic shift, latents packed 2 x 2."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    def make() -> ChromaPipeline:
        return ChromaPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**{"use_dynamic_shifting": True, **scheduler}),
            vae=flux_vae(),
            text_encoder=tiny_parts.t5(),
            tokenizer=tiny_parts.t5_tokenizer(),
            transformer=ChromaTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                axes_dims_rope=(4, 4, 8),
                approximator_num_channels=8,
                approximator_hidden_dim=16,
                approximator_layers=1,
            ),
        )

    return tiny_parts.save(folder, seed, make)


def write_tiny_pixart(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a pipeline in the format of PixArt-Sigma, with a solver of first order."""
    from diffusers import EulerDiscreteScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    settings = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "timestep_spacing": "leading"}

    def make() -> PixArtSigmaPipeline:
        return PixArtSigmaPipeline(
            scheduler=EulerDiscreteScheduler(**{**settings, **scheduler}),
            vae=tiny_parts.vae(scaling_factor=0.13),
            text_encoder=tiny_parts.t5(width=16),
            tokenizer=tiny_parts.t5_tokenizer(),
            transformer=PixArtTransformer2DModel(
                sample_size=8,
                num_layers=1,
                patch_size=2,
                attention_head_dim=8,
                num_attention_heads=2,
                in_channels=4,
                out_channels=8,
                cross_attention_dim=16,
                caption_channels=16,
                use_additional_conditions=False,
            ),
        )

    return tiny_parts.save(folder, seed, make)


def write_tiny_sana(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a pipeline in the format of SANA, with a solver of first order."""
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel

    def make() -> SanaPipeline:
        blocks = {"block_types": "ResBlock", "block_out_channels": (8, 16), "layers_per_block": (1, 1)}
        sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()}
        return SanaPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
            vae=AutoencoderDC(
                latent_channels=4,
                attention_head_dim=8,
                encoder_qkv_multiscales=((), ()),
                decoder_qkv_multiscales=((), ()),
                scaling_factor=0.41407,
                **sides,
            ),
            text_encoder=gemma(),
            tokenizer=gemma_tokenizer(),
            transformer=SanaTransformer2DModel(
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=4,
                num_cross_attention_heads=4,
                cross_attention_head_dim=8,
                cross_attention_dim=32,
                caption_channels=16,
                sample_size=8,
                patch_size=1,
            ),
        )

    return tiny_parts.save(folder, seed, make)


def write_tiny_lumina2(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a pipeline in the format of Lumina-Image 2.0."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    def make() -> Lumina2Pipeline:
        return Lumina2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**{"use_dynamic_shifting": True, **scheduler}),
            vae=flux_vae(),
            text_encoder=gemma(),
            tokenizer=gemma_tokenizer(),
            transformer=Lumina2Transformer2DModel(
                sample_size=8,
                patch_size=2,
                in_channels=4,
                hidden_size=24,
                num_layers=1,
                num_refiner_layers=1,
                num_attention_heads=2,
                num_kv_heads=1,
                multiple_of=2,
                scaling_factor=1.0,
                axes_dim_rope=(4, 4, 4),
                axes_lens=(320, 64, 64),
                cap_feat_dim=16,
            ),
        )

    return tiny_parts.save(folder, seed, make)
