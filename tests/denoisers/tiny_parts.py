"""Tiny encoders and VAEs with random weights, as several families have them."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from denoisers.tiny_sd import TOKENS, tiny_tokenizer


def save(folder: Path, seed: int, make: Callable[[], Any]) -> Path:
    """Make a pipeline with weights of ``seed`` and write it as safetensors; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = make()
        for name in ("unet", "transformer"):
            if hasattr(pipeline, name):
                randomise_zeros(getattr(pipeline, name))
    pipeline.save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def randomise_zeros(module: torch.nn.Module) -> None:
    """Give parameters that start at zero (gates, output layers) small weights, so that every input has an effect."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)


def clip(projection: int | None = None, width: int = 32) -> Any:
    """A CLIP text encoder of two layers; with ``projection`` the class that has that pooled output."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)


def t5_tokenizer() -> Any:
    """A T5 tokenizer of letters, digits and some marks."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(symbol, -3.0) for symbol in string.ascii_lowercase + string.digits + ",."]
    return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=512)


def t5(width: int = 32) -> Any:
    """A T5 encoder of one layer."""
    from transformers import T5Config, T5EncoderModel

    size = len(t5_tokenizer())
    return T5EncoderModel(T5Config(vocab_size=size, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=4))


def vae(**options: Any) -> Any:
    """An image VAE that halves once; ``options`` change its configuration."""
    from diffusers import AutoencoderKL

    settings = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    return AutoencoderKL(**{**settings, **options})
