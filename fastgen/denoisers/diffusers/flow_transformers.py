"""What the families of transformers that were trained as rectified flows share."""

from __future__ import annotations

from typing import Any

from fastgen.denoisers.diffusers.codec import PipelineCodec, TextDtype
from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder
from fastgen.denoisers.diffusers.pipelines import PipelineDenoiser
from fastgen.denoisers.diffusers.schedulers import flow_from_scheduler
from fastgen.errors import UserError


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
        from diffusers import FlowMatchEulerDiscreteScheduler

        if not 1 <= max_tokens <= self.longest_prompt:
            raise UserError(f"max_tokens of {type(self).__name__} is 1 to {self.longest_prompt}, got {max_tokens}.")
        scheduler = pipeline.config("scheduler", FlowMatchEulerDiscreteScheduler)
        process = flow_from_scheduler(scheduler, pipeline.pretrained, tokens, self.even)
        super().__init__(pipeline, network, process, "velocity", sample_shape, gradient_checkpointing)
        self.max_tokens = max_tokens
        self.text_dtype: TextDtype = text_dtype

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
