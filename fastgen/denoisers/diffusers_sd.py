"""Stable Diffusion 1.x and 2.x in the diffusers format: the U-Net as a denoiser, VAE and text encoder as its codec.

Source: Rombach et al. 2022, arXiv 2112.10752; the layout of folders is that of diffusers' ``StableDiffusionPipeline``.
Only JSON and safetensors files are read, by classes that are named here: nothing from a folder or the hub is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Codec, Denoiser, load_strictly
from fastgen.errors import UserError
from fastgen.processes import VP, PredictionKind

T = TypeVar("T")

PREDICTIONS: dict[str, PredictionKind] = {"epsilon": "noise", "v_prediction": "v", "sample": "x0"}
"""``prediction_type`` of a diffusers scheduler to our name for it."""


@dataclass(frozen=True)
class PipelineFolder:
    """A diffusers pipeline, in a local folder or on the Hugging Face hub, read part by part.

    Args:
        pretrained: Local folder, or hub id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``.
        revision: Branch, tag or commit of the hub repository; None is its default branch.
        variant: Infix of the weight files, e.g. ``fp16``; None is the plain files.
    """

    pretrained: str
    revision: str | None = None
    variant: str | None = None

    def config(self, part: str, kind: Any) -> dict[str, Any]:
        """The JSON configuration of a part, e.g. ``unet``; ``kind`` is the diffusers class that it describes."""
        return self._read(part, lambda: kind.load_config(self._place, subfolder=part, revision=self.revision))

    def model(self, part: str, kind: Any) -> nn.Module:
        """A part with its weights: frozen, in eval mode, in fp32.

        Raises:
            UserError: If a file is missing, broken, incomplete or pickled.
        """
        self._refuse_pickles(part)

        def load() -> tuple[nn.Module, dict[str, Any]]:
            return kind.from_pretrained(
                self._place,
                subfolder=part,
                revision=self.revision,
                variant=self.variant,
                use_safetensors=True,
                output_loading_info=True,
            )

        model, report = self._read(part, load)
        # Both libraries fill missing tensors with random numbers and only warn.
        if missing := sorted(report["missing_keys"]):
            raise UserError(
                f"'{self.pretrained}/{part}' is incomplete: {len(missing)} tensors are missing, first '{missing[0]}'; "
                "copy or download it again."
            )
        return model.float().requires_grad_(False).eval()

    def tokenizer(self) -> Any:
        """The CLIP tokenizer."""
        from transformers import CLIPTokenizer

        return self._read(
            "tokenizer",
            lambda: CLIPTokenizer.from_pretrained(self._place, subfolder="tokenizer", revision=self.revision or "main"),
        )

    @property
    def _place(self) -> str:
        folder = Path(self.pretrained).expanduser()
        return str(folder) if folder.is_dir() else self.pretrained

    def _read(self, part: str, read: Callable[[], T]) -> T:
        from safetensors import SafetensorError

        folder = Path(self._place)
        if folder.is_dir() and not (folder / part).is_dir():
            raise UserError(
                f"'{self.pretrained}' has no folder '{part}'; give a folder that was written by "
                "StableDiffusionPipeline.save_pretrained."
            )
        if not folder.is_dir() and (folder.is_absolute() or folder.parts[:1] in ((), ("..",), ("~",))):
            raise UserError(f"'{self.pretrained}' is not a folder; give a diffusers pipeline folder or a hub id.")
        try:
            return read()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if folder.is_dir():
                message = f"'{self.pretrained}/{part}' cannot be read ({reason}); copy or download it again."
            else:
                message = (
                    f"'{self.pretrained}' is not a folder and its '{part}' cannot be read from the hub ({reason}); "
                    "check the spelling, the connection and HF_TOKEN, or give a local pipeline folder."
                )
            raise UserError(message) from error

    def _refuse_pickles(self, part: str) -> None:
        """Say in our words that a local part has pickled weights only; from the hub none are asked for."""
        names = sorted(file.name for file in (Path(self._place) / part).glob("*"))
        pickles = [name for name in names if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]
        if pickles and not any(name.endswith(".safetensors") for name in names):
            raise UserError(
                f"'{self.pretrained}/{part}' has its weights only as a pickle ('{pickles[0]}'), which is never opened "
                "because it can run code; save the pipeline again with safe_serialization=True."
            )


def process_from_scheduler(config: Mapping[str, Any], source: str) -> VP:
    """The noising process that a diffusers scheduler's configuration describes.

    Args:
        config: Content of ``scheduler_config.json``.
        source: Name of the pipeline, for messages.

    Raises:
        UserError: If the scheduler has no betas, an unknown schedule or zero terminal signal.
    """
    trained = config.get("trained_betas")
    if config.get("rescale_betas_zero_snr") or (trained is not None and max(trained) >= 1.0):
        raise UserError(
            f"The scheduler of '{source}' has zero terminal SNR (arXiv 2305.08891), which is not supported; "
            "use a teacher whose last step keeps some signal."
        )
    if trained is not None:
        return VP.from_betas(trained)
    missing = [k for k in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps") if k not in config]
    if missing or config["beta_schedule"] not in ("scaled_linear", "linear"):
        found = f"no {', '.join(missing)}" if missing else f"beta_schedule '{config['beta_schedule']}'"
        raise UserError(
            f"The scheduler of '{source}' has {found}; "
            "the schedules scaled_linear and linear and the list trained_betas are supported."
        )
    return VP(config["beta_start"], config["beta_end"], config["num_train_timesteps"], config["beta_schedule"])


class StableDiffusion(Denoiser):
    """The U-Net of Stable Diffusion 1.x or 2.x. Its process and prediction kind come from the pipeline's scheduler.

    Conditions: ``{"prompt_embeds": (B, L, D), "null_prompt_embeds": (B, L, D)}``, as :class:`StableDiffusionCodec`
    makes them. The module holds neither text encoder nor VAE, so a copy of it is a copy of the U-Net alone.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5``.
        revision: Branch, tag or commit of the hub repository; None is its default branch.
        variant: Infix of the weight files, e.g. ``fp16`` for half the download; weights become fp32 all the same.
        resolution: Height and width of images in pixels; None is the resolution that the U-Net was trained at.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.

    Raises:
        UserError: If a configuration cannot be read, or describes another family (SDXL, inpainting).
    """

    takes_prompts = True

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        resolution: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        pipeline = PipelineFolder(pretrained, revision, variant)
        scheduler = pipeline.config("scheduler", DDIMScheduler)
        unet_config = pipeline.config("unet", UNet2DConditionModel)
        factor = 2 ** (len(pipeline.config("vae", AutoencoderKL)["block_out_channels"]) - 1)

        kind = scheduler.get("prediction_type", "epsilon")  # absent in the oldest folders
        if kind not in PREDICTIONS:
            raise UserError(
                f"The scheduler of '{pretrained}' has prediction_type '{kind}'; "
                f"one of {', '.join(PREDICTIONS)} is needed."
            )
        pixels = unet_config["sample_size"] * factor if resolution is None else resolution
        if pixels <= 0 or pixels % factor:
            raise UserError(f"resolution is a positive multiple of {factor} pixels for '{pretrained}', got {pixels}.")
        channels = unet_config["in_channels"]
        super().__init__(
            process_from_scheduler(scheduler, pretrained),
            PREDICTIONS[kind],
            (channels, pixels // factor, pixels // factor),
        )

        self.pipeline = pipeline
        self.unet = UNet2DConditionModel.from_config(unet_config)
        config = self.unet.config
        if config.addition_embed_type is not None or config.out_channels != channels:
            raise UserError(
                f"The U-Net of '{pretrained}' takes more than a latent, a time and a prompt (SDXL or inpainting?); "
                "StableDiffusion needs a text-to-image pipeline of Stable Diffusion 1.x or 2.x."
            )
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def load_weights(self) -> None:
        """Fill the U-Net from the pipeline's safetensors.

        Raises:
            UserError: If the file is missing, broken, incomplete or pickled.
        """
        from diffusers import UNet2DConditionModel

        weights = self.pipeline.model("unet", UNet2DConditionModel).state_dict()
        load_strictly(self.unet, weights, f"{self.pipeline.pretrained}/unet")

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        """The U-Net's answer at latents ``x_t`` (B, C, H, W) and steps ``t`` (B,), which may lie between integers."""
        if s is not None:
            raise UserError("StableDiffusion has one time input; give a flow-map student a second one with an adapter.")
        if "prompt_embeds" not in condition:
            raise UserError("StableDiffusion needs prompts; use a data module whose condition is a list of prompts.")
        dtype = self.unet.dtype
        embeds = condition["prompt_embeds"].to(dtype)
        return self.unet(x_t.to(dtype), t.float(), encoder_hidden_states=embeds).sample

    def null_condition(self, condition: Condition) -> Condition:
        """The empty prompt for every sample, with the names and shapes of ``condition``."""
        return {**condition, "prompt_embeds": condition["null_prompt_embeds"]}

    def make_codec(self) -> StableDiffusionCodec:
        """VAE and text encoder of the same pipeline."""
        return StableDiffusionCodec(self.pipeline.pretrained, self.pipeline.revision, self.pipeline.variant)

    @property
    def feature_path(self) -> str:
        return "unet.mid_block"


class StableDiffusionCodec(Codec):
    """VAE, tokenizer and CLIP text encoder of a Stable Diffusion pipeline; each is read when it is first used.

    Always frozen, in eval mode and in fp32, also under autocast: latents and embeddings are inputs of every network,
    and their rounding would be shared by all of them.

    Args:
        pretrained: Local pipeline folder or hub id.
        revision: Branch, tag or commit of the hub repository; None is its default branch.
        variant: Infix of the weight files, e.g. ``fp16``; None is the plain files.
    """

    vae: Any
    text_encoder: Any
    null_embeds: Tensor
    """Embedding of the empty prompt, (1, L, D); of no elements until it is first needed."""

    def __init__(self, pretrained: str, revision: str | None = None, variant: str | None = None) -> None:
        super().__init__()
        self.pipeline = PipelineFolder(pretrained, revision, variant)
        self.tokenizer: Any = None
        self.register_module("vae", None)
        self.register_module("text_encoder", None)
        self.register_buffer("null_embeds", torch.empty(0), persistent=False)

    def train(self, mode: bool = True) -> StableDiffusionCodec:
        """A codec stays in eval mode, whatever the method around it does."""
        return super().train(False)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to scaled latents: the mode of the VAE's posterior."""
        vae = self._vae()
        with self._full_precision():
            return vae.encode(images.to(vae.dtype)).latent_dist.mode().float() * vae.config.scaling_factor

    def decode(self, x0: Tensor) -> Tensor:
        """Scaled latents (B, 4, h, w) to images (B, 3, H, W), nominally in [-1, 1]. Differentiable in ``x0``."""
        vae = self._vae()
        with self._full_precision():
            return vae.decode((x0 / vae.config.scaling_factor).to(vae.dtype)).sample.float()

    def encode_condition(self, condition: Mapping[str, Any]) -> Condition:
        """``{"prompt": list of B strings}`` to ``{"prompt_embeds", "null_prompt_embeds"}``, both (B, L, D) fp32.

        Prompts longer than the tokenizer's limit (77 tokens) are cut, as in the pipeline. The embedding of the empty
        prompt is a view that is expanded over the batch.

        Raises:
            UserError: If there are no prompts.
        """
        if "prompt" not in condition:
            raise UserError("Stable Diffusion needs prompts; use a data module whose condition is a list of prompts.")
        embeds = self._embed(list(condition["prompt"]))
        if self.null_embeds.numel() == 0:
            self.null_embeds = self._embed([""])
        return {"prompt_embeds": embeds, "null_prompt_embeds": self.null_embeds.expand(len(embeds), -1, -1)}

    # Lightning validates in inference mode; what is made there could never be used in training, so it is left here.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _embed(self, prompts: list[str]) -> Tensor:
        from transformers import CLIPTextModel

        if self.text_encoder is None:
            self.tokenizer = self.pipeline.tokenizer()
            self.text_encoder = self.pipeline.model("text_encoder", CLIPTextModel).to(self.null_embeds.device)
        tokens = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        with self._full_precision():
            return self.text_encoder(tokens.input_ids.to(self.null_embeds.device))[0].float()

    @torch.inference_mode(False)
    def _vae(self) -> Any:
        from diffusers import AutoencoderKL

        if self.vae is None:
            self.vae = self.pipeline.model("vae", AutoencoderKL).to(self.null_embeds.device)
            # One image at a time: the decoder needs gigabytes per 512 x 512 image, and results do not depend on B.
            self.vae.enable_slicing()
        return self.vae

    def _full_precision(self) -> torch.autocast:
        return torch.autocast(self.null_embeds.device.type, enabled=False)
