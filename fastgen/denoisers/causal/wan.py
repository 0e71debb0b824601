"""Wan as a causal network of clips: masks and memories enter through attention processors and one hook."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.conditions import Condition
from fastgen.denoisers.causal.attending import Attending, Layers
from fastgen.denoisers.causal.base import CausalDenoiser
from fastgen.denoisers.causal.caches import CachePolicy, FullCache
from fastgen.denoisers.diffusers.codec import TextDtype
from fastgen.denoisers.diffusers.pipelines import NUMBERS
from fastgen.denoisers.diffusers.wan import Wan
from fastgen.errors import UserError


@dataclass
class Rotary:
    """What a call's attention layers are given in place of Wan's rotary embedding.

    Attributes:
        seen: What the call's frames see.
        rope: Wan's module of that embedding, whose tables are used.
        sides: Rows and columns of a frame's tokens.
        left: Keys and values by layer, once it has run.
    """

    seen: Attending
    rope: Any
    sides: tuple[int, int]
    left: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def rotate(self, h: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, heads, L, width) turned by row, column and the position (F,) of their frames."""
        (cos_t, cos_h, cos_w), (sin_t, sin_h, sin_w) = (
            table[:, part::2].split([self.rope.t_dim // 2, self.rope.h_dim // 2, self.rope.w_dim // 2], dim=1)
            for table, part in ((self.rope.freqs_cos, 0), (self.rope.freqs_sin, 1))
        )
        rows, columns = self.sides
        positions = positions.to(h.device)
        place = positions.floor().long()
        # Merged frames stand between places: turned by what is left at the table's own frequencies.
        more = (positions - place).to(cos_t.dtype)[:, None] * torch.atan2(sin_t[1], cos_t[1])
        cos_f = cos_t[place] * more.cos() - sin_t[place] * more.sin()
        sin_f = sin_t[place] * more.cos() + cos_t[place] * more.sin()

        def grid(of_frame: Tensor, of_row: Tensor, of_column: Tensor) -> Tensor:
            shape = (len(positions), rows, columns, -1)
            parts = (of_frame[:, None, None], of_row[None, :rows, None], of_column[None, None, :columns])
            return torch.cat([part.expand(shape) for part in parts], 3).flatten(0, 2)

        cos, sin = grid(cos_f, cos_h, cos_w), grid(sin_f, sin_h, sin_w)
        a, b = h.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).type_as(h)


class CausalProcessor:
    """Self-attention of one layer that sees what a call says; everything else is the processor's that it replaces.

    Args:
        layer: Its number.
        plain: That processor.
    """

    def __init__(self, layer: int, plain: Any) -> None:
        self.layer = layer
        self.plain = plain

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        if not isinstance(rotary_emb, Rotary):
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        q, k, v = (h.unflatten(2, (attn.heads, -1)).transpose(1, 2) for h in (q, k, attn.to_v(hidden_states)))
        rotary_emb.left[self.layer] = (k, v)
        mixed = rotary_emb.seen.attention(self.layer, q, k, v, rotary_emb.rotate).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](mixed.type_as(hidden_states)))


class CausalWan(CausalDenoiser, Wan):
    """Wan 2.1 text-to-video whose frames see no later chunk, with a time for each frame; see :class:`Wan`.

    The weights, their names and the pipeline are Wan's. Each frame's time is told to its tokens as Wan 2.2's 5B model
    is told the times of its own. With ``chunk: 0`` it is the bidirectional Wan.

    Args:
        pretrained: As in :class:`Wan`, also what follows.
        revision: As there.
        variant: As there.
        height: As there.
        width: As there.
        frames: Frames of a clip, in pixels.
        max_tokens: As there.
        text_dtype: As there.
        gradient_checkpointing: As there.
        negative_prompt: As there.
        chunk: Latent frames of a chunk; 0 for a bidirectional network.
        first_chunk: Latent frames of the first chunk; 0 for as many.
        attends: Which earlier frames a chunk sees when whole clips are denoised.

    Raises:
        UserError: As there.
    """

    frame_axis = 1

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
        chunk: int = 3,
        first_chunk: int = 0,
        attends: CachePolicy = FullCache(),
    ) -> None:
        checks.whole(self, 0, chunk=chunk, first_chunk=first_chunk)
        super().__init__(
            pretrained,
            revision,
            variant,
            height,
            width,
            frames,
            max_tokens,
            text_dtype,
            gradient_checkpointing,
            negative_prompt,
        )
        self.chunk, self.first_chunk, self.attends = chunk, first_chunk, attends
        for layer, block in enumerate(self.network.blocks):
            block.attn1.set_processor(CausalProcessor(layer, block.attn1.processor))

    def denoise_frames(
        self, x: Tensor, times: Tensor, condition: Condition, seen: Attending, second: Tensor | None
    ) -> tuple[Tensor, Layers]:
        from fastgen.denoisers.diffusers.exact_time import told

        if second is not None:
            raise UserError("CausalWan takes no second time; use Wan, whose flow maps are bidirectional.")
        if "prompt_embeds" not in condition:
            raise UserError("CausalWan needs prompts; use a data module whose condition is a list of prompts.")
        dtype, (_, *patch) = self.network.dtype, self.network.config.patch_size
        sides = (x.shape[-2] // patch[0], x.shape[-1] // patch[1])
        tokens = sides[0] * sides[1]
        ready = {n: v.to(dtype) if v.is_floating_point() and n not in NUMBERS else v for n, v in condition.items()}
        sinusoids: Any = self.get_submodule(self.sinusoids_path)
        if times.shape[1] == 1 or times.stride(1) == 0:  # one time for all frames, told once
            told_times = times[:, 0].float()
            features = sinusoids(self.time_scale * told_times)
        else:
            told_times = times.float().repeat_interleave(tokens, 1)
            each = sinusoids((self.time_scale * times.float()).flatten()).unflatten(0, times.shape)
            features = each.repeat_interleave(tokens, 1)
        embedder: Any = self.get_submodule(self.time_path)
        rotary = Rotary(seen, self.network.rope, sides)
        handle = self.network.rope.register_forward_hook(lambda *_: rotary)
        try:
            with told({embedder: features}, dtype):
                value = self.answer(x.to(dtype), told_times, ready)
        finally:
            handle.remove()
        return value, [rotary.left[layer] for layer in range(len(self.network.blocks))]
