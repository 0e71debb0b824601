"""Random numbers that belong to a sample, not to a process.

Every draw is a pure function of ``(seed, name of the draw, index of the sample, position in the sample)``, computed by
the counter-based generator Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). So the
numbers do not depend on the batch size, on how a batch is cut into micro-batches, on the number of ranks, on
data-loader workers or on what was drawn before, and a resumed run needs no generator state. The integers are the same
on every device, and the floating-point numbers agree to rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgen.errors import UserError

WORD = 0xFFFFFFFF
COPY = 1 << 48
"""What the number of a sample differs by from that of its first copy."""


def derive_seed(*keys: int | str) -> int:
    """A 63-bit seed that depends on every key and on their order."""
    text = "\x1f".join(str(key) for key in keys).encode("utf-8", "surrogateescape")  # of file names
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator seeded by ``keys``, for what is drawn once: permutations, data sets."""
    return torch.Generator("cpu").manual_seed(derive_seed(*keys))


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox 4x32-10: four random 32-bit words per counter.

    Args:
        counter: Four int64 tensors of one shape that hold 32-bit words.
        key: Two 32-bit words.

    Returns:
        Four int64 tensors with values in [0, 2^32).
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap around, which keeps all 64 bits; the mask turns the shift into an unsigned one.
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = ((q >> 32) & WORD) ^ b ^ k0, q & WORD, ((p >> 32) & WORD) ^ d ^ k1, p & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return a, b, c, d


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch.

    Args:
        seed: Seed of the run.
        indices: One number per sample of the batch: the global sample number in training, the user's seed in sampling;
            64-bit integers.
        scope: Prefix of every name, e.g. the role whose loss is being computed.
        device: Where the numbers are made.
        step: What all samples of the batch share, e.g. the iteration; used by the ``shared_*`` draws only, which are
            therefore equal on all ranks.
    """

    seed: int
    indices: Sequence[int]
    scope: str = ""
    device: torch.device | str = "cpu"
    step: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    def scoped(self, name: str) -> Draws:
        """The same samples with independent numbers, named by ``name``."""
        return Draws(self.seed, self.indices, f"{self.scope}/{name}", self.device, self.step)

    def part(self, start: int, stop: int) -> Draws:
        """The draws of samples ``start:stop`` of this batch."""
        return Draws(self.seed, self.indices[start:stop], self.scope, self.device, self.step)

    def shared(self) -> Draws:
        """Numbers that all samples of the step share, equal on all ranks and in all micro-batches."""
        return Draws(self.seed, [self.step] * len(self), f"{self.scope}/shared", self.device, self.step)

    def grouped(self, size: int) -> Draws:
        """Numbers that every ``size`` consecutive samples share, e.g. the times of particles that are compared.

        Raises:
            UserError: If the samples are no whole number of groups.
        """
        if len(self) % size:
            raise UserError(
                f"{len(self)} samples cannot be grouped by {size}; make batch_size / micro_batches a multiple of it."
            )
        first = [self.indices[i - i % size] for i in range(len(self))]
        return Draws(self.seed, first, f"{self.scope}/grouped", self.device, self.step)

    def repeated(self, count: int) -> Draws:
        """Every sample ``count`` times in a row, each with numbers of its own; the first with those of the sample."""
        return Draws(
            self.seed, [i ^ (k * COPY) for i in self.indices for k in range(count)], self.scope, self.device, self.step
        )

    def _words(self, name: str, blocks: int) -> tuple[Tensor, ...]:
        """Four words (B, blocks) for each sample and block."""
        key = derive_seed(self.seed, self.scope, name)
        index = torch.tensor([int(i) for i in self.indices], dtype=torch.int64, device=self.device)[:, None]
        block = torch.arange(blocks, dtype=torch.int64, device=self.device)[None, :]
        low, high, block = torch.broadcast_tensors(index & WORD, (index >> 32) & WORD, block)
        return philox((low, high, block, torch.zeros_like(block)), (key & WORD, key >> 32))

    def normal(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers, shape ``(B, *shape)``, by the transform of Box and Muller (1958)."""
        count = math.prod(shape)
        words = [word.double().add_(0.5).mul_(2.0**-32) for word in self._words(name, -(-count // 4))]
        pairs = []
        for u, v in (words[:2], words[2:]):
            radius, angle = torch.sqrt(-2.0 * torch.log(u)), 2.0 * math.pi * v
            pairs += [radius * torch.cos(angle), radius * torch.sin(angle)]
        numbers = torch.stack(pairs, dim=2).flatten(1)[:, :count]
        return numbers.to(dtype).reshape(len(self), *shape)

    def uniform(self, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """One number in [0, 1) per sample, shape ``(B,)``; fp64 by default, because it becomes a time."""
        high, low, *_ = (word[:, 0] for word in self._words(name, 1))
        return (((high << 21) | (low >> 11)).double() * 2.0**-53).to(dtype)

    def gauss(self, name: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """One standard normal number per sample, shape ``(B,)``."""
        return self.normal(name, (), dtype)

    def integers(self, name: str, high: int) -> Tensor:
        """One integer in [0, high) per sample, shape ``(B,)``, int64."""
        return (self.uniform(name) * high).long()

    def shared_uniform(self, name: str) -> float:
        """One number in [0, 1) for the whole step, equal on all ranks and in all micro-batches."""
        return float(Draws(self.seed, [self.step], f"{self.scope}/shared").uniform(name))

    def shared_integer(self, name: str, high: int) -> int:
        """One integer in [0, high) for the whole step, equal on all ranks and in all micro-batches."""
        return int(self.shared_uniform(name) * high)
