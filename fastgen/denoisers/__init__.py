"""Networks and exact denoisers, all behind one contract."""

from fastgen.denoisers.base import Codec, Denoiser
from fastgen.denoisers.causal.base import CausalCopy, CausalDenoiser
from fastgen.denoisers.causal.block_sparse import BlockSparsity, SparseCopy
from fastgen.denoisers.causal.caches import CompressedCache, EMASink, FullCache, NoisyCache, WindowCache
from fastgen.denoisers.causal.linear_gaussian import LinearGaussianClips
from fastgen.denoisers.causal.transformer import ClipDiT, ClipTransformer
from fastgen.denoisers.causal.wan import CausalWan
from fastgen.denoisers.diffusers.flux import Flux
from fastgen.denoisers.diffusers.qwen_image import QwenImage
from fastgen.denoisers.diffusers.sd import StableDiffusion
from fastgen.denoisers.diffusers.sd3 import StableDiffusion3
from fastgen.denoisers.diffusers.sdxl import StableDiffusionXL
from fastgen.denoisers.diffusers.wan import Wan
from fastgen.denoisers.exact.gaussians import GaussianDenoiser, MixtureDenoiser
from fastgen.denoisers.exact.mixtures import EmpiricalDenoiser, ImageMixture, LowRankMixtureDenoiser, RingMixture
from fastgen.denoisers.images.chroma import Chroma
from fastgen.denoisers.images.flux2 import Flux2Klein
from fastgen.denoisers.images.lumina2 import Lumina2
from fastgen.denoisers.images.pixart import PixArtSigma
from fastgen.denoisers.images.sana import Sana
from fastgen.denoisers.images.z_image import ZImage
from fastgen.denoisers.networks.dit import DiT
from fastgen.denoisers.networks.get import GETransformer
from fastgen.denoisers.networks.mlp import MLP
from fastgen.denoisers.networks.unet import UNet
from fastgen.denoisers.wrappers.bridge import Bridge
from fastgen.denoisers.wrappers.experts import Experts
from fastgen.denoisers.wrappers.fake_quant import FakeQuant
from fastgen.denoisers.wrappers.from_teacher import CopyOfStudent, CopyOfTeacher
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser, LoRA
from fastgen.denoisers.wrappers.lorad import LoRaD

__all__ = [
    "MLP",
    "AdaptedDenoiser",
    "BlockSparsity",
    "Bridge",
    "CausalCopy",
    "CausalDenoiser",
    "CausalWan",
    "Chroma",
    "ClipDiT",
    "ClipTransformer",
    "Codec",
    "CompressedCache",
    "CopyOfStudent",
    "CopyOfTeacher",
    "Denoiser",
    "DiT",
    "EMASink",
    "EmpiricalDenoiser",
    "Experts",
    "FakeQuant",
    "Flux",
    "Flux2Klein",
    "FullCache",
    "GETransformer",
    "GaussianDenoiser",
    "ImageMixture",
    "LinearGaussianClips",
    "LoRA",
    "LoRaD",
    "LowRankMixtureDenoiser",
    "Lumina2",
    "MixtureDenoiser",
    "NoisyCache",
    "PixArtSigma",
    "QwenImage",
    "RingMixture",
    "Sana",
    "SparseCopy",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
    "UNet",
    "Wan",
    "WindowCache",
    "ZImage",
]
