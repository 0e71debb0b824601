"""Tiny pipelines of families that read Qwen3: Z-Image and FLUX.2 [klein]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoisers import tiny_parts
from denoisers.tiny_qwenimage import qwen_tokenizer

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""What Qwen3's own template makes of one question."""


def tokenizer() -> Any:
    """Of bytes, with Qwen3's chat."""
    made = qwen_tokenizer()
    made.chat_template = CHAT
    return made


def qwen3(kind: str, layers: int) -> Any:
    """A decoder of width 8."""
    import transformers

    config = transformers.Qwen3Config(
        vocab_size=len(qwen_tokenizer()),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
    )
    return getattr(transformers, kind)(config)


def write_tiny_zimage(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a pipeline in the format of Z-Image: shift 3, latents of FLUX.1's VAE."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    def make() -> ZImagePipeline:
        return ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
            vae=tiny_parts.vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False),
            text_encoder=qwen3("Qwen3Model", 2),
            tokenizer=tokenizer(),
            transformer=ZImageTransformer2DModel(
                in_channels=4,
                dim=32,
                n_layers=1,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=8,
                axes_dims=[4, 6, 6],
                axes_lens=[256, 32, 32],
            ),
        )

    return tiny_parts.save(folder, seed, make)


def write_tiny_flux2(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a pipeline in the format of FLUX.2 [klein]: the shift of tokens and steps, a VAE with a batch norm."""
    import torch
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    def make() -> Flux2KleinPipeline:
        vae = AutoencoderKLFlux2(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            layers_per_block=1,
            sample_size=16,
        )
        torch.nn.init.normal_(vae.bn.running_mean, std=0.3)
        torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
        return Flux2KleinPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**{"use_dynamic_shifting": True, **scheduler}),
            vae=vae,
            text_encoder=qwen3("Qwen3ForCausalLM", 27),
            tokenizer=tokenizer(),
            transformer=Flux2Transformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=24,
                axes_dims_rope=(4, 4, 4, 4),
                guidance_embeds=False,
            ),
        )

    return tiny_parts.save(folder, seed, make)
