"""What the families in the diffusers format share beside the network: VAE and text encoders as a codec."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastgen.conditions import Condition
from fastgen.denoisers.base import Codec
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import NULL
from fastgen.denoisers.diffusers.text import text_length
from fastgen.errors import UserError
from fastgen.notices import notice

TextDtype = Literal["float32", "bfloat16"]
"""What large text encoders compute in."""


def shortened(text: str, length: int = 60) -> str:
    """The begin of a text."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length].rstrip() + " ..."


class PipelineCodec(Codec):
    """VAE, tokenizers and text encoders of a diffusers pipeline; each is read when it is first used.

    Always frozen, in eval mode and, unless asked otherwise, in fp32, also under autocast: latents and embeddings are
    inputs of every network, and their rounding would be shared by all of them.

    Args:
        pipeline: Where the parts are.
        text_dtype: What the text encoders compute in; ``bfloat16`` halves the memory of those with billions of
            parameters.
        negative_prompt: What guidance leads away from; None is what the family takes for no prompt.
    """

    place: Tensor
    """An empty tensor that moves with the codec: parts are read to its device."""

    def __init__(
        self, pipeline: PipelineFolder, text_dtype: TextDtype = "float32", negative_prompt: str | None = None
    ) -> None:
        super().__init__()
        self.negative_prompt = negative_prompt
        self.pipeline = pipeline
        self.text_dtype = getattr(torch, text_dtype)
        self.parts = nn.ModuleDict()
        self.tokenizers: dict[str, Any] = {}
        self.said: set[str] = set()
        self.null: dict[str, Tensor] = {}
        self.register_buffer("place", torch.empty(0), persistent=False)

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings of B prompts by name, each (B, ...)."""

    def vae_class(self) -> Any:
        """The diffusers class of the VAE."""
        from diffusers import AutoencoderKL

        return AutoencoderKL

    def embed_nothing(self) -> dict[str, Tensor]:
        """Embeddings of no prompt, each (1, ...)."""
        return self.embed_negative("")

    def embed_negative(self, prompt: str) -> dict[str, Tensor]:
        """Embeddings, each (1, ...), of what guidance leads away from; some families word it otherwise."""
        return self.embed([prompt])

    def train(self, mode: bool = True) -> PipelineCodec:
        """A codec stays in eval mode, whatever the method around it does."""
        return super().train(False)

    # Lightning validates in inference mode; what is made there could never be used in training, so it is left here.
    @torch.inference_mode(False)
    def module(self, part: str, kind: Any) -> Any:
        """A frozen part, read at the first call."""
        if part not in self.parts:
            dtype = torch.float32 if part == "vae" else self.text_dtype
            self.parts[part] = self.pipeline.model(part, kind, dtype).to(self.place.device)
        return self.parts[part]

    def tokenize(
        self, part: str, kind: Any, prompts: Sequence[str], length: int | None = None, overhead: int = 0, **options: Any
    ) -> Any:
        """Tokens of ``prompts`` on the codec's device; the tokenizer is read at the first call.

        What is cut off is said, see :meth:`note_cut`.

        Args:
            part: Folder of the tokenizer.
            kind: Its transformers class.
            prompts: Texts.
            length: Where they are cut; default what :func:`~fastgen.denoisers.diffusers.text.text_length` says.
            overhead: How many of these tokens the family adds to a prompt and does not count.
            options: What the tokenizer gets; default padded to the length.
        """
        if part not in self.tokenizers:
            self.tokenizers[part] = self.pipeline.tokenizer(part, kind)
        tokenizer = self.tokenizers[part]
        length = text_length(self.pipeline, part, tokenizer) if length is None else length
        options = {"padding": "max_length", "max_length": length, "truncation": True, **options}
        self.note_cut(part, tokenizer, prompts, length, overhead)
        return tokenizer(list(prompts), return_tensors="pt", **options).to(self.place.device)

    def note_cut(self, part: str, tokenizer: Any, prompts: Sequence[str], length: int, overhead: int = 0) -> None:
        """The first time that prompts lose their end, say how many of the batch do and how long the longest is."""
        if part in self.said:
            return
        tokens = [len(ids) for ids in tokenizer(list(prompts), verbose=False).input_ids]
        long = [count for count in tokens if count > length]
        if not long:
            return
        self.said.add(part)
        longest = tokenizer(prompts[tokens.index(max(long))], verbose=False).input_ids
        end = tokenizer.decode(longest[length:], skip_special_tokens=True)
        notice(
            f"{len(long)} of {len(prompts)} prompts of a batch have more than the {length - overhead} tokens that the "
            f"encoder of '{part}' reads (the longest {max(long) - overhead}); the rest is cut off, such as "
            f"'{shortened(end)}', here and in further batches."
        )

    def encode_condition(self, condition: Mapping[str, Any]) -> Condition:
        """``{"prompt": list of B strings}`` to tensors (B, ...) in fp32, and their counterparts without a prompt.

        Prompts longer than an encoder's limit are cut, as in the pipeline, with a note. The counterparts are views
        of one embedding, expanded over the batch.

        Raises:
            UserError: If there are no prompts.
        """
        if "prompt" not in condition:
            raise UserError(
                f"{type(self).__name__} needs prompts; use a data module whose condition is a list of prompts."
            )
        with torch.inference_mode(False), torch.no_grad(), self.full_precision():
            embeds = self.embed(condition["prompt"])
            if not self.null:
                negative = self.negative_prompt
                self.null = self.embed_nothing() if negative is None else self.embed_negative(negative)
            count = len(condition["prompt"])
            nulls = {
                name: value.to(self.place.device).expand(count, *value.shape[1:]) for name, value in self.null.items()
            }
            return self.matched(embeds, nulls)

    def matched(self, embeds: dict[str, Tensor], nulls: dict[str, Tensor]) -> Condition:
        """Both as one condition; overridden where their shapes may differ."""
        return {**embeds, **{NULL + name: value for name, value in nulls.items()}}

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to normalised latents: the mode of the VAE's posterior."""
        vae = self.vae()
        with self.full_precision():
            latents = vae.encode(images.to(vae.dtype)).latent_dist.mode().float()
        mean, std = self.statistics(latents)
        return (latents - mean) / std

    def decode(self, x0: Tensor) -> Tensor:
        """Normalised latents to images, nominally in [-1, 1]. Differentiable in ``x0``."""
        vae = self.vae()
        mean, std = self.statistics(x0)
        with self.full_precision():
            return vae.decode((x0 * std + mean).to(vae.dtype)).sample.float()

    def vae(self) -> Any:
        """The VAE."""
        new = "vae" not in self.parts
        vae = self.module("vae", self.vae_class())
        if new:
            # One image at a time: the decoder needs gigabytes per 512 x 512 image, and results do not depend on B.
            vae.enable_slicing()
        return vae

    def statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of raw latents, per channel where the VAE says so, to broadcast."""
        config = self.vae().config
        shape = (1, -1, *[1] * (latents.ndim - 2))

        def numbers(value: Any) -> Tensor:
            return torch.as_tensor(value, dtype=torch.float32, device=latents.device).reshape(shape)

        mean = config.get("latents_mean") or config.get("shift_factor") or 0.0
        return numbers(mean), numbers(config.get("latents_std") or 1.0) / (config.get("scaling_factor") or 1.0)

    def full_precision(self) -> torch.autocast:
        """Autocast does not reach inside."""
        return torch.autocast(self.place.device.type, enabled=False)
