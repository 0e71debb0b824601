"""A tiny Qwen-Image pipeline with random weights, for tests without downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoisers import tiny_parts


def qwen_tokenizer() -> Any:
    """Qwen's tokenizer with a token per byte and no merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet())]
    special = ["<|im_start|>", "<|im_end|>"]
    return Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], additional_special_tokens=special)


def qwen_vl(size: int) -> Any:
    """Qwen2.5-VL of two text layers and one vision layer."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


def write_tiny_qwenimage(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a pipeline in the format of Qwen-Image: dynamic shift that ends at 0.02, latents packed 2 x 2.

    Args:
        folder: Where to write; made if needed.
        seed: Seed of the weights.
        scheduler: Entries of the scheduler's configuration to change.
    """
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    settings = {
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 0.9,
        "max_image_seq_len": 8192,
        "shift_terminal": 0.02,
    }

    def make() -> QwenImagePipeline:
        tokenizer = qwen_tokenizer()
        transformer = QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 2.0, 1.0],
        )
        return QwenImagePipeline(
            transformer=transformer,
            vae=vae,
            text_encoder=qwen_vl(len(tokenizer)),
            tokenizer=tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(**{**settings, **scheduler}),
        )

    return tiny_parts.save(folder, seed, make)
