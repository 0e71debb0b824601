"""Qwen-Image in the diffusers format: the transformer as a denoiser, VAE and Qwen2.5-VL as its codec.

Source: Wu et al. 2025, arXiv 2508.02324; the layout of folders is that of diffusers' ``QwenImagePipeline``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from fastgen import checks
from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.flow_transformers import FlowTransformer, RaggedPromptCodec, padded
from fastgen.denoisers.diffusers.packing import pack, unpack
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import latent_sides
from fastgen.processes import Prediction
from fastgen.sizes import height_and_width

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""The chat that Qwen-Image was trained with."""
TEMPLATE_TOKENS = 34
"""Tokens before the prompt, which the network does not see."""


class QwenImage(FlowTransformer):
    """The transformer of Qwen-Image: a rectified flow, called with ``t`` in [0, 1].

    Samples are latent maps (16, h, w); they are packed to tokens for the network alone. Conditions: ``prompt_embeds``
    (B, L, D), padded with zeros, and ``prompt_mask`` (B, L), true where there is text, with their ``null_``
    counterparts of the same L.

    Args:
        pretrained: Local pipeline folder, or hub id such as ``Qwen/Qwen-Image``.
        revision: Branch, tag or commit of the hub repository, if not its main branch.
        variant: Infix of the weight files; weights become fp32 all the same.
        resolution: Side of square images in pixels; ``trained`` is 1024.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        max_tokens: Longer prompts are cut.
        text_dtype: What the text encoders compute in; ``bfloat16`` halves their memory.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        negative_prompt: What guidance leads away from, in place of the family's empty prompt; the pipeline's own
            examples give ``" "``.
        keep_norm: Whether guidance leaves each token of the velocity the norm that it has with the prompt, as the
            pipeline samples; without it ``uncond + scale (cond - uncond)``.
        lora: ``.safetensors`` file of a LoRA that is merged into the network when it is read, as its pipeline loads it.

    Raises:
        UserError: If a configuration cannot be read or the scheduler is not one for flows.
    """

    even = True
    longest_prompt = 1024

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        variant: str | None = None,
        resolution: int | Literal["trained"] = "trained",
        height: int | None = None,
        width: int | None = None,
        max_tokens: int = 512,
        text_dtype: TextDtype = "float32",
        gradient_checkpointing: bool = False,
        negative_prompt: str | None = None,
        keep_norm: bool = True,
        lora: str | None = None,
    ) -> None:
        checks.whole(self, max_tokens=max_tokens)
        from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

        pipeline = PipelineFolder(pretrained, revision, variant)
        transformer = pipeline.network("transformer", QwenImageTransformer2DModel)
        factor = 2 ** len(pipeline.config("vae", AutoencoderKLQwenImage)["temperal_downsample"])
        size = height_and_width(self, resolution, height, width, trained=1024)
        rows, columns = latent_sides(pretrained, size, factor, patch=2)
        shape = (transformer.config.in_channels // 4, rows, columns)
        tokens = (rows // 2) * (columns // 2)
        super().__init__(pipeline, transformer, shape, tokens, max_tokens, text_dtype, gradient_checkpointing)
        self.negative_prompt = negative_prompt
        self.lora = lora
        self.keep_norm = keep_norm

    def answer(self, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - x0`` as a latent map."""
        height, width = x_t.shape[-2:]
        tokens = self.network(
            hidden_states=pack(x_t),
            timestep=t,
            encoder_hidden_states=condition["prompt_embeds"],
            encoder_hidden_states_mask=condition["prompt_mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * len(x_t),
        ).sample
        return unpack(tokens, height, width)

    def guide(self, conditional: Prediction, unconditional: Prediction, scale: float | Tensor) -> Prediction:
        """Guidance that leaves each token the norm it has with the prompt, as the pipeline samples."""
        plain = conditional.guided(unconditional, scale)
        if not self.keep_norm:
            return plain
        with_prompt, tokens = pack(conditional.value), pack(plain.value)
        tokens = tokens * (with_prompt.norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True))
        value = unpack(tokens, *plain.value.shape[-2:])
        return Prediction(plain.process, plain.x_t, plain.t, value, plain.kind)

    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"prompt_embeds": (1, self.network.config.joint_attention_dim), "prompt_mask": (1,)}

    def call_options(self, pipe: Any) -> dict[str, Any]:
        """The pipeline's ``guidance_scale`` is for networks with that input; guidance is ``true_cfg_scale``."""
        options = super().call_options(pipe) | {"true_cfg_scale": 1.0, "max_sequence_length": self.max_tokens}
        del options["guidance_scale"]
        return options

    def make_codec(self) -> QwenImageCodec:
        """VAE and text encoder of the same pipeline."""
        return QwenImageCodec(self.pipeline, self.text_dtype, self.max_tokens, negative_prompt=self.negative_prompt)

    @property
    def feature_path(self) -> str:
        """The image tokens in the middle block; the block itself gives the text first."""
        return f"transformer.transformer_blocks.{len(self.network.transformer_blocks) // 2}.img_norm2"


class QwenImageCodec(RaggedPromptCodec):
    """VAE and Qwen2.5-VL of a Qwen-Image pipeline. The VAE is one for videos; images are videos of one frame."""

    def vae_class(self) -> Any:
        from diffusers import AutoencoderKLQwenImage

        return AutoencoderKLQwenImage

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images.unsqueeze(2)).squeeze(2)

    def decode(self, x0: Tensor) -> Tensor:
        return super().decode(x0.unsqueeze(2)).squeeze(2)

    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The last hidden states of the prompts inside the chat, moved to the front and padded with zeros."""
        from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

        chats = [TEMPLATE.format(prompt) for prompt in prompts]
        limit = TEMPLATE_TOKENS + self.max_tokens  # what comes later changes nothing before it
        tokens = self.tokenize("tokenizer", Qwen2Tokenizer, chats, limit, TEMPLATE_TOKENS, padding=True)
        encoder = self.module("text_encoder", Qwen2_5_VLForConditionalGeneration)
        hidden = encoder(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True
        ).hidden_states[-1]
        texts = [
            states[mask.bool()][TEMPLATE_TOKENS:] for states, mask in zip(hidden, tokens.attention_mask, strict=True)
        ]
        return padded(texts)
