"""Embeddings of prompts by the text encoders that several families share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastgen.errors import UserError

if TYPE_CHECKING:
    from fastgen.denoisers.diffusers.codec import PipelineCodec
    from fastgen.denoisers.diffusers.pipeline_folder import PipelineFolder


def text_length(pipeline: PipelineFolder, part: str, tokenizer: Any) -> int:
    """How many tokens the encoder of a tokenizer reads: what the tokenizer says, but never more than the encoder has
    positions for. Tokenizers saved without a length say 1e30.

    Args:
        pipeline: Where both are.
        part: Folder of the tokenizer, ``tokenizer`` or ``tokenizer_2``.
        tokenizer: The tokenizer.

    Raises:
        UserError: If neither says it.
    """
    from transformers import CLIPTextConfig

    encoder = part.replace("tokenizer", "text_encoder")
    positions = pipeline.encoder_config(encoder, CLIPTextConfig).get("max_position_embeddings")
    length = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    if length > 1_000_000:
        raise UserError(
            f"Neither '{pipeline.pretrained}/{part}' says how many tokens it gives (model_max_length) nor "
            f"'{encoder}' how many it reads (max_position_embeddings); write the first into tokenizer_config.json."
        )
    return int(length)


def penultimate_clip(
    codec: PipelineCodec, prompts: Sequence[str], number: int, projected: bool
) -> tuple[Tensor, Tensor]:
    """CLIP's penultimate hidden states (B, L, D) and its first output: the pooled embedding (B, P) if ``projected``.

    Args:
        codec: Whose parts are used.
        prompts: B texts.
        number: 1 for ``text_encoder`` and ``tokenizer``, 2 for ``text_encoder_2`` and ``tokenizer_2``.
        projected: Whether the encoder is a ``CLIPTextModelWithProjection``.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    suffix = "" if number == 1 else f"_{number}"
    tokens = codec.tokenize(f"tokenizer{suffix}", CLIPTokenizer, prompts)
    encoder = codec.module(f"text_encoder{suffix}", CLIPTextModelWithProjection if projected else CLIPTextModel)
    output = encoder(tokens.input_ids, output_hidden_states=True)
    return output.hidden_states[-2].float(), output[0].float()


def t5(codec: PipelineCodec, prompts: Sequence[str], number: int, length: int) -> Tensor:
    """T5's last hidden states (B, length, D), padding included, as SD3 and FLUX.1 use them.

    Args:
        codec: Whose parts are used.
        prompts: B texts.
        number: 2 for ``text_encoder_2`` and ``tokenizer_2`` (FLUX.1), 3 likewise (SD3).
        length: Number of tokens.
    """
    from transformers import T5EncoderModel, T5Tokenizer

    tokens = codec.tokenize(f"tokenizer_{number}", T5Tokenizer, prompts, length)
    return codec.module(f"text_encoder_{number}", T5EncoderModel)(tokens.input_ids)[0].float()
