"""Adaptive block-sparse attention: each block of queries sees the blocks of keys that hold most of its energy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Component
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.causal.base import causal
from fastgen.denoisers.wrappers.from_teacher import CopyOfTeacher


def block_means(h: Tensor, block: int) -> Tensor:
    """Means of blocks of tokens (B, heads, L, width), the last one of what is left: (B, heads, blocks, width)."""
    return torch.stack([part.mean(2) for part in h.split(block, dim=2)], 2)


@dataclass(frozen=True)
class BlockSparsity(Component):
    """Which blocks of keys a block of queries sees, per head: the first that hold ``energy``, within a range of shares.

    Video-BLADE (Gu et al. 2025, arXiv 2508.10774; github.com/ziplab/VIDEO-BLADE). The map of blocks is attention of
    pooled queries and keys, without gradient. With a ``least`` share of 1 attention is dense.

    Differs: blocks are of tokens in a row, where the paper first orders them along a Gilbert curve; they are pooled
    whole, where the code samples a quarter of each.

    Args:
        block: Tokens of a block.
        energy: Share of the pooled attention that is kept.
        least: Least share of the blocks.
        most: Largest share of the blocks.
    """

    block: int = 128
    energy: float = 0.95
    least: float = 0.05
    most: float = 0.17

    def __post_init__(self) -> None:
        checks.whole(self, block=self.block)
        checks.between(self, 0.0, 1.0, "(]", energy=self.energy, least=self.least, most=self.most)
        checks.ascending(self, least=self.least, most=self.most)

    @torch.no_grad()
    def mask(self, q: Tensor, k: Tensor) -> Tensor:
        """Which keys (columns) each query (rows) sees, (B, heads, L, L')."""
        rows, columns = block_means(q, self.block), block_means(k, self.block)
        share = (rows @ columns.mT / math.sqrt(q.shape[-1])).softmax(-1)
        ordered, order = share.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        count = columns.shape[2]
        place = torch.arange(count, device=q.device)
        kept = (before < self.energy) & (place < max(1, math.floor(self.most * count)))
        kept |= place < math.ceil(self.least * count)
        seen = torch.zeros_like(kept).scatter(-1, order, kept)
        whole = seen.repeat_interleave(self.block, 2)[:, :, : q.shape[2]]
        return whole.repeat_interleave(self.block, 3)[..., : k.shape[2]]


@dataclass(frozen=True)
class SparseCopy(CopyOfTeacher):
    """A copy of a teacher of clips whose attention is block-sparse.

    Args:
        sparsity: Which blocks are seen.
    """

    sparsity: BlockSparsity = BlockSparsity()

    def build(self, teacher: Denoiser) -> Denoiser:
        network = causal(super().build(teacher))
        network.sparsity = self.sparsity
        return network
