"""What the families of transformers that were trained as rectified flows share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgen.conditions import Condition
from fastgen.denoisers.diffusers.codec import PipelineCodec, TextDtype
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import NULL, PipelineDenoiser
from fastgen.denoisers.diffusers.schedulers import flow_from_scheduler
from fastgen.errors import UserError
from fastgen.processes import PredictionKind, Process


class FlowTransformer(PipelineDenoiser):
    """A transformer that predicts the velocity of a flow, on the grid of its pipeline's scheduler.

    Args:
        pipeline: Where configurations and weights are.
        network: The diffusers module.
        sample_shape: Shape of one latent sample.
        tokens: Number of tokens of a sample, on which some shifts depend.
        max_tokens: Longer prompts are cut.
        text_dtype: What the text encoders compute in.
        gradient_checkpointing: Recompute activations in the backward pass.
    """

    even = False
    """Whether the pipeline gives its scheduler even sigmas, see :func:`flow_from_scheduler`."""

    longest_prompt = 512
    """Largest ``max_tokens`` that the pipeline takes."""

    predicts: PredictionKind = "velocity"
    """What the network answers, once :meth:`answer` has made it one of the process."""

    def __init__(
        self,
        pipeline: PipelineFolder,
        network: Any,
        sample_shape: tuple[int, ...],
        tokens: int,
        max_tokens: int,
        text_dtype: TextDtype,
        gradient_checkpointing: bool,
    ) -> None:
        if not 1 <= max_tokens <= self.longest_prompt:
            raise UserError(f"max_tokens of {type(self).__name__} is 1 to {self.longest_prompt}, got {max_tokens}.")
        from diffusers import FlowMatchEulerDiscreteScheduler

        scheduler = pipeline.config("scheduler", FlowMatchEulerDiscreteScheduler)
        process = self.process_of(scheduler, pipeline.pretrained, tokens)
        super().__init__(pipeline, network, process, self.predicts, sample_shape, gradient_checkpointing)
        self.max_tokens = max_tokens
        self.text_dtype: TextDtype = text_dtype

    def process_of(self, scheduler: Mapping[str, Any], source: str, tokens: int) -> Process:
        """The process that the pipeline's scheduler describes; see :func:`flow_from_scheduler`."""
        return flow_from_scheduler(scheduler, source, tokens, self.even)

    @property
    def time_path(self) -> str:
        return f"{self.part}.time_text_embed.timestep_embedder"

    @property
    def sinusoids_path(self) -> str:
        return f"{self.part}.time_text_embed.time_proj"


class LongPromptCodec(PipelineCodec):
    """A codec with a text encoder that reads prompts of any length.

    Args:
        pipeline: Where the parts are.
        text_dtype: What the text encoders compute in.
        max_tokens: Length of that encoder's prompt; longer ones are cut.
        negative_prompt: As in :class:`PipelineCodec`.
    """

    def __init__(
        self, pipeline: PipelineFolder, text_dtype: TextDtype, max_tokens: int, negative_prompt: str | None = None
    ) -> None:
        super().__init__(pipeline, text_dtype, negative_prompt)
        self.max_tokens = max_tokens


def padded(texts: Sequence[Tensor]) -> dict[str, Tensor]:
    """Embeddings of B texts, each (L_i, D), as ``prompt_embeds`` (B, L, D) with zeros behind and ``prompt_mask``."""
    embeds = torch.nn.utils.rnn.pad_sequence([text.float() for text in texts], batch_first=True)
    lengths = torch.tensor([len(text) for text in texts], device=embeds.device)
    return {
        "prompt_embeds": embeds,
        "prompt_mask": torch.arange(embeds.shape[1], device=embeds.device) < lengths[:, None],
    }


class RaggedPromptCodec(LongPromptCodec):
    """A codec whose embeddings are as long as the texts of a batch: what is shorter is padded and masked."""

    def matched(self, embeds: dict[str, Tensor], nulls: dict[str, Tensor]) -> Condition:
        """Both padded to the longer of the two."""
        length = max(embeds["prompt_mask"].shape[1], nulls["prompt_mask"].shape[1])
        entries = {**embeds, **{NULL + name: value for name, value in nulls.items()}}
        return {
            name: F.pad(value, (*(0, 0) * (value.ndim - 2), 0, length - value.shape[1]))
            for name, value in entries.items()
        }
