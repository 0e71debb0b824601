"""Networks of the size of released ones: their published configurations, without their weights.

The entries are those of the ``config.json`` files of stabilityai/stable-diffusion-xl-base-1.0,
black-forest-labs/FLUX.1-dev and Qwen/Qwen-Image; what is not named is diffusers' default.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgen.denoisers.diffusers.flux import Flux
from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.diffusers.qwen_image import QwenImage
from fastgen.denoisers.diffusers.sdxl import StableDiffusionXL

TINY_VAE = {"block_out_channels": [8, 16]}
TINY_HEIGHT = 16
"""Height of the images of the tiny networks."""


@dataclass(frozen=True)
class Geometry:
    """A family at its released size, and as tiny as it can be.

    Attributes:
        denoiser: The class of the family.
        parameters: Published number of parameters of the network.
        network: Configuration of the network.
        tiny: What differs in the tiny network.
        vae: Configuration of the VAE, of which only the shape of latents matters.
        tiny_vae: The same for the tiny network.
        scheduler: Configuration of the scheduler.
        tokens: Length of a prompt.
        guidance: The teacher's guidance scale in training; 1 is one row per sample, else two.
    """

    denoiser: type[PipelineDenoiser]
    parameters: int
    network: dict[str, Any]
    tiny: dict[str, Any]
    vae: dict[str, Any]
    tiny_vae: dict[str, Any]
    scheduler: dict[str, Any]
    tokens: int
    guidance: float

    def write(self, folder: Path, tiny: bool = False) -> Path:
        """A pipeline folder with configurations alone."""
        files = {
            "model_index.json": {"_class_name": "DiffusionPipeline"},
            "scheduler/scheduler_config.json": self.scheduler,
            f"{self.denoiser.part}/config.json": {**self.network, **(self.tiny if tiny else {})},
            "vae/config.json": self.tiny_vae if tiny else self.vae,
        }
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return folder


TINY_TRANSFORMER = {
    "in_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": [4, 6, 6],
}
FLOW = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "base_image_seq_len": 256,
}

GEOMETRIES = {
    "sdxl": Geometry(
        denoiser=StableDiffusionXL,
        parameters=2_567_463_684,
        network={
            "sample_size": 128,
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        tiny={
            "sample_size": 8,
            "block_out_channels": [32, 64],
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": 1,
            "attention_head_dim": [4, 8],
            "cross_attention_dim": 64,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 72,
            "norm_num_groups": 8,
        },
        vae={"block_out_channels": [128, 256, 512, 512]},
        tiny_vae=TINY_VAE,
        scheduler={
            "_class_name": "EulerDiscreteScheduler",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "prediction_type": "epsilon",
        },
        tokens=77,
        guidance=8.0,
    ),
    "flux": Geometry(
        denoiser=Flux,
        parameters=11_901_408_320,
        network={
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
        tiny={**TINY_TRANSFORMER, "num_single_layers": 2, "pooled_projection_dim": 32},
        vae={"block_out_channels": [128, 256, 512, 512]},
        tiny_vae=TINY_VAE,
        scheduler={**FLOW, "shift": 3.0, "max_shift": 1.15, "max_image_seq_len": 4096},
        tokens=512,
        guidance=1.0,
    ),
    "qwenimage": Geometry(
        denoiser=QwenImage,
        parameters=20_430_401_088,
        network={
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 60,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 3584,
        },
        tiny={**TINY_TRANSFORMER, "out_channels": 4},
        vae={"temperal_downsample": [False, True, True]},
        tiny_vae={"temperal_downsample": [False]},
        scheduler={**FLOW, "shift": 1.0, "max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02},
        tokens=512,
        guidance=4.0,
    ),
}
