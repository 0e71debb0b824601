"""Families that are tested by what their pipelines make: how each is written, built and called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from denoisers.tiny_masked import write_tiny_chroma, write_tiny_lumina2, write_tiny_pixart, write_tiny_sana
from denoisers.tiny_qwen3 import write_tiny_flux2, write_tiny_zimage
from torch import Tensor

from fastgen.denoisers import Chroma, Flux2Klein, Lumina2, PixArtSigma, Sana, ZImage
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.diffusers.packing import pack


@dataclass(frozen=True)
class Recipe:
    """One family.

    Attributes:
        write: Writes its tiny pipeline into a folder.
        denoiser: Our class.
        options: Its arguments beside the folder.
        guidance: From our scale to what the pipeline is called with.
        call: More that it is called with.
        given: Our noise as the pipeline takes it.
        answers: How many answers 64 near times have at least in bf16.
        derivative: Why the network has no exact derivative in forward mode; empty if it has.
    """

    write: Callable[..., Path]
    denoiser: type[Denoiser]
    options: dict[str, Any]
    guidance: Callable[[float], dict[str, Any]] = lambda scale: {"guidance_scale": scale}
    call: dict[str, Any] = field(default_factory=dict)
    given: Callable[[Tensor], Tensor] = lambda noise: noise
    answers: int = 64
    derivative: str = ""

    def build(self, folder: Path, **options: Any) -> Denoiser:
        return self.denoiser(str(folder), **{**self.options, **options})

    def pictures(self, pipe: Any, denoiser: Any, noise: Tensor, prompts: list[str], steps: int, scale: float) -> Tensor:
        """What the pipeline makes of our noise, (B, 3, ...) in [0, 1]."""
        call = {**denoiser.call_options(pipe), **self.call, **self.guidance(scale)}
        result = pipe(
            prompt=list(prompts), latents=self.given(noise), num_inference_steps=steps, output_type="pt", **call
        )
        return result.frames.transpose(1, 2) if "frames" in result else result.images


RECIPES = {
    recipe.denoiser.__name__: recipe
    for recipe in (
        Recipe(
            write_tiny_zimage,
            ZImage,
            {"resolution": 16, "max_tokens": 64},
            guidance=lambda scale: {"guidance_scale": scale - 1.0},
        ),
        Recipe(write_tiny_flux2, Flux2Klein, {"resolution": 16, "max_tokens": 64}),
        Recipe(write_tiny_chroma, Chroma, {"resolution": 16, "max_tokens": 24}, given=pack),
        Recipe(write_tiny_sana, Sana, {"resolution": 32, "max_tokens": 24}),
        Recipe(write_tiny_lumina2, Lumina2, {"resolution": 16, "max_tokens": 200}, answers=8),
        Recipe(write_tiny_pixart, PixArtSigma, {"resolution": 16, "max_tokens": 24}),
    )
}


def noise_of(denoiser: Denoiser, count: int, seed: int = 0) -> Tensor:
    """Latent noise."""
    return torch.randn(count, *denoiser.sample_shape, generator=torch.Generator().manual_seed(seed))
