"""Wan 2.1 and Wan 2.2 TI2V-5B, text-to-video: the transformer as a denoiser, video VAE and UMT5 as its codec.

Source: Wan team 2025, arXiv 2503.20314; the layout of folders is that of diffusers' ``WanPipeline``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fastgen import checks
from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.flow_transformers import FlowTransformer, LongPromptCodec
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import latent_sides
from fastgen.errors import UserError
from fastgen.sharding import parameters_without_storage


class Wan(FlowTransformer):
    """The transformer of Wan 2.1 or of Wan 2.2 TI2V-5B: a rectified flow on videos, called with ``1000 t``.

    The latter knows a time for every token; from text alone all have one, and one is told.

    Samples are latents (16, F, h, w). Shift and grid are the scheduler's; the pipeline's UniPC is a multistep solver of
    higher order, of which ours is the first-order one on the same grid. Conditions: ``prompt_embeds`` (B, L, D) and
    ``null_prompt_embeds``.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files; weights become fp32 all the same.
        height: Height of videos in pixels.
        width: Width of videos in pixels.
        frames: Frames of videos; one more than a multiple of the VAE's 4.
        max_tokens: Longer prompts are cut.
        text_dtype: What the text encoders compute in; ``bfloat16`` halves their memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the family's empty prompt.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read, or describes image-to-video or the two experts of Wan 2.2.
    """

    time_scale = 1000.0
    flow_maps = True

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        height: int = 480,
        width: int = 832,
        frames: int = 81,
        max_tokens: int = 512,
        text_dtype: TextDtype = "float32",
        gradient_checkpointing: bool = False,
        negative_prompt: str | None = None,
        lora: str | None = None,
    ) -> None:
        checks.whole(self, height=height, width=width, frames=frames, max_tokens=max_tokens)
        from diffusers import AutoencoderKLWan, WanTransformer3DModel

        pipeline = PipelineFolder(pretrained, revision, variant)
        transformer = pipeline.network("transformer", WanTransformer3DModel)
        vae = pipeline.config("vae", AutoencoderKLWan)
        config = transformer.config
        index = pipeline.index
        channels = config.in_channels
        if (
            index.get("boundary_ratio") is not None
            or index.get("_class_name") == "WanImageToVideoPipeline"
            or config.image_dim is not None
            or config.out_channels != channels
        ):
            raise UserError(
                f"'{pretrained}' is not a pipeline of Wan text-to-video with one transformer (image-to-video, or "
                "Wan 2.2 with two experts?); give one of Wan 2.1, or of Wan 2.2 TI2V-5B."
            )
        factor, slowing = vae.get("scale_factor_spatial", 8), vae.get("scale_factor_temporal", 4)
        if frames < 1 or frames % slowing != 1 % slowing:
            raise UserError(f"frames is one more than a multiple of {slowing} for '{pretrained}', got {frames}.")
        _, *patch = config.patch_size
        rows, columns = latent_sides(pretrained, (height, width), factor, (patch[0], patch[1]))
        count = (frames - 1) // slowing + 1
        shape = (channels, count, rows, columns)
        tokens = count * (rows // patch[0]) * (columns // patch[1])
        super().__init__(pipeline, transformer, shape, tokens, max_tokens, text_dtype, gradient_checkpointing)
        self.negative_prompt = negative_prompt
        self.lora = lora

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - x0``."""
        embeds = condition["prompt_embeds"]
        return self.network(hidden_states=x_t, timestep=self.time_scale * t, encoder_hidden_states=embeds).sample

    def flow_map_pipeline(self, pipe: Any, gate: float, embedder: nn.Module, shift: float) -> Any:
        """AnyFlow's transformer is Wan's with a second embedder of time."""
        from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, FlowMapEulerDiscreteScheduler

        known = inspect.signature(AnyFlowTransformer3DModel.__init__).parameters
        config = {name: value for name, value in self.network.config.items() if name in known}
        with parameters_without_storage():
            network: Any = AnyFlowTransformer3DModel(**config, gate_value=gate, deltatime_type="r")
        added = {f"condition_embedder.delta_embedder.{name}": value for name, value in embedder.state_dict().items()}
        network.load_state_dict({**self.network.state_dict(), **added}, assign=True)
        parts = {name: getattr(pipe, name) for name in ("tokenizer", "text_encoder", "vae")}
        return AnyFlowPipeline(transformer=network, scheduler=FlowMapEulerDiscreteScheduler(shift=shift), **parts)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, self.network.config.text_dim)}

    def call_options(self, pipe: Any) -> dict[str, Any]:
        _, count, rows, columns = self.sample_shape
        return {
            "height": rows * pipe.vae_scale_factor_spatial,
            "width": columns * pipe.vae_scale_factor_spatial,
            "num_frames": (count - 1) * pipe.vae_scale_factor_temporal + 1,
            "guidance_scale": 1.0,
            "max_sequence_length": self.max_tokens,
        }

    def make_codec(self) -> WanCodec:
        """VAE and text encoder of the same pipeline."""
        return WanCodec(self.pipeline, self.text_dtype, self.max_tokens, negative_prompt=self.negative_prompt)

    @property
    def time_path(self) -> str:
        return "transformer.condition_embedder.time_embedder"

    @property
    def sinusoids_path(self) -> str:
        return "transformer.condition_embedder.timesteps_proj"

    @property
    def feature_path(self) -> str:
        return f"transformer.blocks.{len(self.network.blocks) // 2}"


class WanCodec(LongPromptCodec):
    """Video VAE and UMT5 of a Wan pipeline; its pictures are videos (B, 3, frames, height, width)."""

    def vae_class(self) -> Any:
        from diffusers import AutoencoderKLWan

        return AutoencoderKLWan

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """UMT5's last hidden states of the cleaned prompts, zero where there is no text."""
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean
        from transformers import T5Tokenizer, UMT5EncoderModel

        texts = [prompt_clean(prompt) for prompt in prompts]
        tokens = self.tokenize("tokenizer", T5Tokenizer, texts, self.max_tokens)
        mask = tokens.attention_mask
        hidden = self.module("text_encoder", UMT5EncoderModel)(tokens.input_ids, mask).last_hidden_state
        return {"prompt_embeds": hidden.float() * mask.unsqueeze(-1)}
