"""What diffusers' own pipelines say, in our layout, for every family: the other side of the comparisons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from denoisers.tiny_flux import write_tiny_flux
from denoisers.tiny_qwenimage import write_tiny_qwenimage
from denoisers.tiny_sd3 import write_tiny_sd3
from denoisers.tiny_sdxl import write_tiny_sdxl
from denoisers.tiny_wan import write_tiny_wan
from torch import Tensor

from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.diffusers.flux import Flux
from fastgen.denoisers.diffusers.packing import pack, unpack
from fastgen.denoisers.diffusers.qwen_image import QwenImage
from fastgen.denoisers.diffusers.sd3 import StableDiffusion3
from fastgen.denoisers.diffusers.sdxl import StableDiffusionXL
from fastgen.denoisers.diffusers.wan import Wan


class Family(ABC):
    """One family: its tiny pipeline, our denoiser and diffusers' answers.

    Attributes:
        write: Writes the tiny pipeline into a folder; keywords change the scheduler.
        denoiser: Our class.
        pipeline: Name of diffusers' pipeline class.
        part: Folder of the network.
        encoders: Folders that the codec reads for a prompt.
        options: Arguments of our class beside ``pretrained``.
    """

    write: Callable[..., Path]
    denoiser: type[Denoiser]
    pipeline: str
    part = "transformer"
    encoders: tuple[str, ...]
    options: dict[str, Any] = {}

    def build(self, folder: Path, **options: Any) -> Denoiser:
        return self.denoiser(str(folder), **{**self.options, **options})

    def pipe(self, folder: Path, **parts: Any) -> Any:
        import diffusers

        pipe = getattr(diffusers, self.pipeline).from_pretrained(folder, **parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def network(self, pipe: Any) -> Any:
        return getattr(pipe, self.part)

    @abstractmethod
    def embeddings(self, pipe: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
        """``encode_prompt`` under our names."""

    @abstractmethod
    def answer(self, pipe: Any, x: Tensor, t: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """The diffusers module's output."""

    @abstractmethod
    def latents(self, pipe: Any, noise: Tensor, prompts: Sequence[str], steps: int, guidance: float) -> Tensor:
        """What the pipeline generates."""

    def decoded(self, pipe: Any, latents: Tensor) -> Tensor:
        config = pipe.vae.config
        return pipe.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0.0)).sample

    def encoded(self, pipe: Any, images: Tensor) -> Tensor:
        config = pipe.vae.config
        raw = pipe.vae.encode(images).latent_dist.mode()
        return (raw - (config.shift_factor or 0.0)) * config.scaling_factor


class SDXL(Family):
    write = staticmethod(write_tiny_sdxl)
    denoiser = StableDiffusionXL
    pipeline = "StableDiffusionXLPipeline"
    part = "unet"
    encoders = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")

    def embeddings(self, pipe, prompts):
        embeds, null, pooled, null_pooled = pipe.encode_prompt(list(prompts), device="cpu")
        return {
            "prompt_embeds": embeds,
            "null_prompt_embeds": null,
            "pooled_prompt_embeds": pooled,
            "null_pooled_prompt_embeds": null_pooled,
        }

    def answer(self, pipe, x, t, condition):
        ids = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]]).expand(len(x), -1)
        added = {"text_embeds": condition["pooled_prompt_embeds"], "time_ids": ids}
        return pipe.unet(x, t, encoder_hidden_states=condition["prompt_embeds"], added_cond_kwargs=added).sample

    def latents(self, pipe, noise, prompts, steps, guidance):
        return pipe(
            list(prompts),
            latents=noise,
            **pixels(noise),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
        ).images


class SD3(Family):
    write = staticmethod(write_tiny_sd3)
    denoiser = StableDiffusion3
    pipeline = "StableDiffusion3Pipeline"
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")

    def embeddings(self, pipe, prompts):
        embeds, null, pooled, null_pooled = pipe.encode_prompt(list(prompts), None, None, device="cpu")
        return {
            "prompt_embeds": embeds,
            "null_prompt_embeds": null,
            "pooled_prompt_embeds": pooled,
            "null_pooled_prompt_embeds": null_pooled,
        }

    def answer(self, pipe, x, t, condition):
        return pipe.transformer(
            hidden_states=x,
            timestep=1000 * t,
            encoder_hidden_states=condition["prompt_embeds"],
            pooled_projections=condition["pooled_prompt_embeds"],
        ).sample

    def latents(self, pipe, noise, prompts, steps, guidance):
        return pipe(
            list(prompts),
            latents=noise,
            **pixels(noise),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="latent",
        ).images


class FLUX(Family):
    write = staticmethod(write_tiny_flux)
    denoiser = Flux
    pipeline = "FluxPipeline"
    encoders = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    options = {"resolution": 16, "max_tokens": 24, "embedded_guidance": 2.5}

    def embeddings(self, pipe, prompts):
        embeds, pooled, _ = pipe.encode_prompt(list(prompts), None, device="cpu", max_sequence_length=24)
        null, null_pooled, _ = pipe.encode_prompt([""] * len(prompts), None, device="cpu", max_sequence_length=24)
        return {
            "prompt_embeds": embeds,
            "null_prompt_embeds": null,
            "pooled_prompt_embeds": pooled,
            "null_pooled_prompt_embeds": null_pooled,
        }

    def answer(self, pipe, x, t, condition):
        ids = pipe._prepare_latent_image_ids(len(x), 4, 4, "cpu", torch.float32)
        tokens = pipe.transformer(
            hidden_states=pipe._pack_latents(x, *x.shape),
            timestep=t,
            guidance=torch.full((len(x),), 2.5),
            encoder_hidden_states=condition["prompt_embeds"],
            pooled_projections=condition["pooled_prompt_embeds"],
            txt_ids=torch.zeros(24, 3),
            img_ids=ids,
        ).sample
        return pipe._unpack_latents(tokens, 16, 16, 2)

    def latents(self, pipe, noise, prompts, steps, guidance):
        tokens = pipe(
            list(prompts),
            negative_prompt=[""] * len(prompts),
            latents=pack(noise),
            **pixels(noise),
            num_inference_steps=steps,
            guidance_scale=2.5,
            true_cfg_scale=guidance,
            max_sequence_length=24,
            output_type="latent",
        ).images
        return unpack(tokens, *noise.shape[-2:])


class Qwen(Family):
    write = staticmethod(write_tiny_qwenimage)
    denoiser = QwenImage
    pipeline = "QwenImagePipeline"
    encoders = ("text_encoder", "tokenizer")
    options = {"resolution": 16}

    def embeddings(self, pipe, prompts):
        found = {}
        for prefix, texts in (("", list(prompts)), ("null_", [""] * len(prompts))):
            embeds, mask = pipe.encode_prompt(texts, device="cpu")
            found[f"{prefix}prompt_embeds"] = embeds
            found[f"{prefix}prompt_mask"] = torch.ones(embeds.shape[:2], dtype=bool) if mask is None else mask.bool()
        length = max(value.shape[1] for value in found.values())
        return {
            name: torch.cat([value, value.new_zeros(len(value), length - value.shape[1], *value.shape[2:])], dim=1)
            for name, value in found.items()
        }

    def answer(self, pipe, x, t, condition):
        tokens = pipe.transformer(
            hidden_states=pipe._pack_latents(x, *x.shape),
            timestep=t,
            encoder_hidden_states=condition["prompt_embeds"],
            encoder_hidden_states_mask=condition["prompt_mask"],
            img_shapes=[[(1, 4, 4)]] * len(x),
        ).sample
        return pipe._unpack_latents(tokens, 16, 16, 2)[:, :, 0]

    def latents(self, pipe, noise, prompts, steps, guidance):
        tokens = pipe(
            list(prompts),
            negative_prompt=[""] * len(prompts),
            latents=pack(noise),
            **pixels(noise),
            num_inference_steps=steps,
            true_cfg_scale=guidance,
            output_type="latent",
        ).images
        return unpack(tokens, *noise.shape[-2:])

    def decoded(self, pipe, latents):
        return video_decoded(pipe, latents.unsqueeze(2)).squeeze(2)

    def encoded(self, pipe, images):
        return video_encoded(pipe, images.unsqueeze(2)).squeeze(2)


def pixels(noise: Tensor) -> dict[str, int]:
    """Size of the pictures of these latents: every tiny VAE halves both sides."""
    return {"height": 2 * noise.shape[-2], "width": 2 * noise.shape[-1]}


def statistics(pipe: Any) -> tuple[Tensor, Tensor]:
    config = pipe.vae.config
    return torch.tensor(config.latents_mean).reshape(-1, 1, 1, 1), torch.tensor(config.latents_std).reshape(-1, 1, 1, 1)


def video_decoded(pipe: Any, latents: Tensor) -> Tensor:
    mean, std = statistics(pipe)
    return pipe.vae.decode(latents * std + mean).sample


def video_encoded(pipe: Any, videos: Tensor) -> Tensor:
    mean, std = statistics(pipe)
    return (pipe.vae.encode(videos).latent_dist.mode() - mean) / std


class WAN(Family):
    write = staticmethod(write_tiny_wan)
    denoiser = Wan
    pipeline = "WanPipeline"
    encoders = ("text_encoder", "tokenizer")
    options = {"height": 16, "width": 16, "frames": 5, "max_tokens": 24}

    def embeddings(self, pipe, prompts):
        embeds, null = pipe.encode_prompt(list(prompts), device="cpu", max_sequence_length=24)
        return {"prompt_embeds": embeds, "null_prompt_embeds": null}

    def answer(self, pipe, x, t, condition):
        return pipe.transformer(x, 1000 * t, condition["prompt_embeds"]).sample

    def latents(self, pipe, noise, prompts, steps, guidance):
        return pipe(
            list(prompts),
            latents=noise,
            **pixels(noise),
            num_frames=5,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=24,
            output_type="latent",
        ).frames

    def decoded(self, pipe, latents):
        return video_decoded(pipe, latents)

    def encoded(self, pipe, images):
        return video_encoded(pipe, images)


FAMILIES = {family.denoiser.__name__: family for family in (SDXL(), SD3(), FLUX(), Qwen(), WAN())}
