"""Networks and exact denoisers, all behind one contract."""

from fastgen.denoisers.adapters import AdaptedDenoiser, LoRA
from fastgen.denoisers.analytic import GaussianDenoiser, MixtureDenoiser
from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.diffusers_flux import Flux
from fastgen.denoisers.diffusers_qwenimage import QwenImage
from fastgen.denoisers.diffusers_sd import StableDiffusion
from fastgen.denoisers.diffusers_sd3 import StableDiffusion3
from fastgen.denoisers.diffusers_sdxl import StableDiffusionXL
from fastgen.denoisers.diffusers_wan import Wan
from fastgen.denoisers.dit import DiT
from fastgen.denoisers.experts import Experts
from fastgen.denoisers.from_teacher import CopyOfTeacher
from fastgen.denoisers.mixtures import EmpiricalDenoiser, ImageMixture, LowRankMixtureDenoiser, RingMixture
from fastgen.denoisers.mlp import MLP
from fastgen.denoisers.unet import UNet

__all__ = [
    "MLP",
    "AdaptedDenoiser",
    "Codec",
    "CopyOfTeacher",
    "Denoiser",
    "DiT",
    "EmpiricalDenoiser",
    "Experts",
    "Flux",
    "GaussianDenoiser",
    "ImageMixture",
    "LoRA",
    "LowRankMixtureDenoiser",
    "MixtureDenoiser",
    "QwenImage",
    "RingMixture",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
    "UNet",
    "Wan",
]
