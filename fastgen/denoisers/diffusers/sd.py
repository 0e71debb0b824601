"""Stable Diffusion 1.x and 2.x in the diffusers format: the U-Net as a denoiser, VAE and text encoder as its codec.

Source: Rombach et al. 2022, arXiv 2112.10752; the layout of folders is that of diffusers' ``StableDiffusionPipeline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgen import checks
from fastgen.denoisers.diffusers.codec import PipelineCodec
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser, latent_sides
from fastgen.denoisers.diffusers.schedulers import process_from_scheduler
from fastgen.denoisers.wrappers.added_inputs import guidance_features
from fastgen.errors import UserError
from fastgen.processes import VP, PredictionKind
from fastgen.sizes import height_and_width

PREDICTIONS: dict[str, PredictionKind] = {"epsilon": "noise", "v_prediction": "v", "sample": "x0"}
"""``prediction_type`` of a diffusers scheduler to our name for it."""


def prediction_from_scheduler(config: Mapping[str, Any], source: str) -> PredictionKind:
    """What the network of a scheduler's pipeline predicts.

    Args:
        config: Content of ``scheduler_config.json``.
        source: Name of the pipeline, for messages.

    Raises:
        UserError: If the scheduler names another kind.
    """
    kind = config.get("prediction_type", "epsilon")  # absent in the oldest folders
    if kind not in PREDICTIONS:
        raise UserError(
            f"The scheduler of '{source}' has prediction_type '{kind}'; one of {', '.join(PREDICTIONS)} is needed."
        )
    return PREDICTIONS[kind]


GUIDANCE_FEATURES = 256
"""Width of the guidance embedding that a student gets, as in diffusers' LCM scripts (``unet_time_cond_proj_dim``)."""


class PipelineUNet(PipelineDenoiser):
    """The U-Net of a latent diffusion model with discrete steps; the prediction kind comes from the scheduler.

    A U-Net with ``time_cond_proj_dim`` (LCM's) is told a guidance scale: ``condition["guidance"]`` (B,), or
    ``embedded_guidance`` where there is none.

    Args:
        pipeline: Where configurations and weights are.
        scheduler: Configuration of the pipeline's scheduler.
        process: The process that it describes.
        size: ``resolution``, ``height`` and ``width`` as the user gave them.
        gradient_checkpointing: Recompute activations in the backward pass.
        embedded_guidance: What a U-Net with that input is told.
    """

    part = "unet"

    def encoder_parts(self) -> list[nn.Module]:
        return [self.network.conv_in, *self.network.down_blocks, self.network.mid_block]

    def __init__(
        self,
        pipeline: PipelineFolder,
        scheduler: Mapping[str, Any],
        process: VP,
        size: tuple[int | Literal["trained"], int | None, int | None],
        gradient_checkpointing: bool,
        embedded_guidance: float,
    ) -> None:
        checks.not_negative(self, embedded_guidance=embedded_guidance)
        from diffusers import UNet2DConditionModel

        name, factor = pipeline.pretrained, pipeline.latent_factor
        unet = pipeline.network("unet", UNet2DConditionModel)
        kind = prediction_from_scheduler(scheduler, name)
        pixels = height_and_width(self, *size, trained=unet.config.sample_size * factor)
        shape = (unet.config.in_channels, *latent_sides(name, pixels, factor))
        super().__init__(pipeline, unet, process, kind, shape, gradient_checkpointing)
        self.embedded_guidance = embedded_guidance

    @property
    def takes_guidance(self) -> bool:
        return super().takes_guidance or self.guided_by_input

    @property
    def guided_by_input(self) -> bool:
        return self.network.config.time_cond_proj_dim is not None

    def add_guidance_input(self) -> None:
        """Give the U-Net the input of diffusers' LCM checkpoints, zero at first; idempotent."""
        if self.takes_guidance:
            return
        from fastgen.denoisers.wrappers.exact_linear import ExactLinear

        first = self.network.time_embedding.linear_1
        projection = ExactLinear(
            GUIDANCE_FEATURES, first.in_features, bias=False, device=first.weight.device, dtype=first.weight.dtype
        )
        nn.init.zeros_(projection.weight)
        self.network.time_embedding.cond_proj = projection
        self.network.register_to_config(time_cond_proj_dim=GUIDANCE_FEATURES)

    def timestep_cond(self, count: int, condition: Mapping[str, Tensor]) -> Tensor | None:
        """The embedding of the guidance scales (count, time_cond_proj_dim); None for a U-Net without that input."""
        width = self.network.config.time_cond_proj_dim
        if width is None:
            return None
        weight = self.network.time_embedding.cond_proj.weight
        scale = condition.get("guidance", torch.full((count,), self.embedded_guidance, device=weight.device))
        return guidance_features(scale, width)

    def call_options(self, pipe: Any) -> dict[str, Any]:
        """A U-Net with that input is told ``guidance_scale`` by the pipeline."""
        told = {"guidance_scale": self.embedded_guidance} if self.guided_by_input else {}
        return super().call_options(pipe) | told

    @property
    def time_path(self) -> str:
        return "unet.time_embedding"

    @property
    def sinusoids_path(self) -> str:
        return "unet.time_proj"

    @property
    def feature_path(self) -> str:
        return "unet.mid_block"


class StableDiffusion(PipelineUNet):
    """The U-Net of Stable Diffusion 1.x or 2.x. Its process and prediction kind come from the pipeline's scheduler.

    Conditions: ``{"prompt_embeds": (B, L, D), "null_prompt_embeds": (B, L, D)}``, as :class:`StableDiffusionCodec`
    makes them. The module holds neither text encoder nor VAE, so a copy of it is a copy of the U-Net alone.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files, e.g. ``fp16`` for half the download; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is that of the U-Net's training.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the family's empty prompt.
        embedded_guidance: What a U-Net that has a guidance scale as an input (LCM's) is told; others ignore it.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read, or describes another family (SDXL, inpainting).
    """

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        resolution: int | Literal["trained"] = "trained",
        height: int | None = None,
        width: int | None = None,
        gradient_checkpointing: bool = False,
        negative_prompt: str | None = None,
        embedded_guidance: float = 8.0,
        lora: str | None = None,
    ) -> None:
        from diffusers import DDIMScheduler

        pipeline = PipelineFolder(pretrained, revision, variant)
        scheduler = pipeline.config("scheduler", DDIMScheduler)
        process = process_from_scheduler(scheduler, pretrained)
        size = (resolution, height, width)
        super().__init__(pipeline, scheduler, process, size, gradient_checkpointing, embedded_guidance)
        self.negative_prompt = negative_prompt
        self.lora = lora
        config = self.network.config
        if config.addition_embed_type is not None or config.out_channels != config.in_channels:
            raise UserError(
                f"The U-Net of '{pretrained}' takes more than a latent, a time and a prompt (SDXL or inpainting?); "
                "StableDiffusion needs a text-to-image pipeline of Stable Diffusion 1.x or 2.x."
            )

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The U-Net's answer at steps ``t``, which may lie between integers."""
        told = self.timestep_cond(len(x_t), condition)
        return self.network(x_t, t, encoder_hidden_states=condition["prompt_embeds"], timestep_cond=told).sample

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, self.network.config.cross_attention_dim)}

    def make_codec(self) -> StableDiffusionCodec:
        """VAE and text encoder of the same pipeline."""
        return StableDiffusionCodec(self.pipeline, negative_prompt=self.negative_prompt)


class StableDiffusionCodec(PipelineCodec):
    """VAE, tokenizer and CLIP text encoder of a Stable Diffusion pipeline."""

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``{"prompt_embeds": (B, L, D)}``: CLIP's last hidden states."""
        from transformers import CLIPTextModel, CLIPTokenizer

        tokens = self.tokenize("tokenizer", CLIPTokenizer, prompts)
        return {"prompt_embeds": self.module("text_encoder", CLIPTextModel)(tokens.input_ids)[0].float()}
