"""Stable Diffusion XL in the diffusers format: the U-Net as a denoiser, VAE and two CLIP encoders as its codec.

Source: Podell et al. 2023, arXiv 2307.01952; the layout of folders is that of diffusers' ``StableDiffusionXLPipeline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from fastgen.denoisers.diffusers.codec import PipelineCodec
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.schedulers import PipelineVP
from fastgen.denoisers.diffusers.sd import PipelineUNet
from fastgen.denoisers.diffusers.text import penultimate_clip
from fastgen.errors import UserError


class StableDiffusionXL(PipelineUNet):
    """The base U-Net of SDXL. Many-step solvers call it where the pipeline's ``EulerDiscreteScheduler`` does.

    Conditions: ``prompt_embeds`` (B, L, D) and ``pooled_prompt_embeds`` (B, P) with their ``null_`` counterparts. A
    condition may also hold ``time_ids`` (B, 6): height and width of the original image, top and left of the crop,
    height and width wanted, in pixels (arXiv 2307.01952, section 2.2); without it, uncropped images of the size of
    samples.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``stabilityai/stable-diffusion-xl-base-1.0``.
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
        UserError: If a configuration cannot be read, or describes another family (SD1.5, the refiner).
    """

    time_ids: Tensor

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
        from diffusers import EulerDiscreteScheduler

        pipeline = PipelineFolder(pretrained, revision, variant)
        scheduler = pipeline.config("scheduler", EulerDiscreteScheduler)
        process = PipelineVP.from_scheduler(scheduler, pretrained)
        size = (resolution, height, width)
        super().__init__(pipeline, scheduler, process, size, gradient_checkpointing, embedded_guidance)
        self.negative_prompt = negative_prompt
        self.lora = lora
        config = self.network.config
        if (
            config.addition_embed_type != "text_time"
            or config.out_channels != config.in_channels
            or pipeline.index.get("requires_aesthetics_score")
        ):
            raise UserError(
                f"The U-Net of '{pretrained}' is not one of Stable Diffusion XL base (SD1.5, refiner or inpainting?); "
                "give a text-to-image pipeline of SDXL."
            )
        pixels = [float(side * pipeline.latent_factor) for side in self.sample_shape[-2:]]
        ids = torch.tensor([[*pixels, 0.0, 0.0, *pixels]])
        self.register_buffer("time_ids", ids, persistent=False)

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The U-Net's answer at steps ``t``, which may lie between integers."""
        added = {
            "text_embeds": condition["pooled_prompt_embeds"],
            "time_ids": condition.get("time_ids", self.time_ids.expand(len(x_t), -1)),
        }
        return self.network(
            x_t,
            t,
            encoder_hidden_states=condition["prompt_embeds"],
            timestep_cond=self.timestep_cond(len(x_t), condition),
            added_cond_kwargs=added,
        ).sample

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.network.config
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return {"prompt_embeds": (1, config.cross_attention_dim), "pooled_prompt_embeds": (pooled,)}

    def make_codec(self) -> StableDiffusionXLCodec:
        """VAE and text encoders of the same pipeline."""
        return StableDiffusionXLCodec(self.pipeline, negative_prompt=self.negative_prompt)


class StableDiffusionXLCodec(PipelineCodec):
    """VAE and both CLIP text encoders of an SDXL pipeline."""

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Penultimate hidden states of both encoders side by side, and the pooled output of the second."""
        first, _ = penultimate_clip(self, prompts, 1, projected=False)
        second, pooled = penultimate_clip(self, prompts, 2, projected=True)
        return {"prompt_embeds": torch.cat([first, second], dim=-1), "pooled_prompt_embeds": pooled}

    def embed_nothing(self) -> dict[str, Tensor]:
        """Zeros, as SDXL was trained, unless the pipeline says that the empty prompt is to be embedded."""
        embeds = self.embed([""])
        if not self.pipeline.index.get("force_zeros_for_empty_prompt", True):
            return embeds
        return {name: torch.zeros_like(value) for name, value in embeds.items()}
