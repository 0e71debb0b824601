"""Which samples come when, and to whom: an endless order that a resumed run continues exactly, and a finite one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DistributedSampler

from fastgen.randomness import generator


class InfiniteSampler(DistributedSampler[tuple[int, int]]):
    """An endless order of (n, dataset index) in which everything is a function of the global sample number n.

    Sample n is element ``n mod size`` of a permutation seeded by (seed, n // size); with ``start`` a multiple of
    ``world_size * batch_size`` it goes to rank ``(n // batch_size) % world_size``. So the order does not depend on the
    number of workers, and a run that starts at the number where another one was killed continues it exactly (the way
    of EDM, Karras et al. 2022, arXiv 2206.00364, there seeded per run and rank).

    It is a ``DistributedSampler`` so that Lightning sees that the shards are cut already and does not replace it.

    Args:
        size: Number of samples; ``None`` means that n itself is the index.
        batch_size: Per rank.
        seed: Seed of the permutations.
        start: Global number of the first sample, or what tells it when an iterator begins.
        rank: Number of this process.
        world_size: Number of processes.
        repeats: How many samples in a row have the same index.
    """

    def __init__(
        self,
        size: int | None,
        batch_size: int,
        seed: int,
        start: int | Callable[[], int] = 0,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
    ) -> None:
        super().__init__(range(size or 0), num_replicas=world_size, rank=rank)  # type: ignore[arg-type]
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.repeats = repeats
        self._permuted_epoch = -1
        self._permutation = torch.empty(0)

    def __len__(self) -> int:
        raise TypeError("an endless order has no length")

    def __iter__(self) -> Iterator[tuple[int, int]]:
        start = self.start() if callable(self.start) else self.start
        first = start + self.rank * self.batch_size
        while True:
            for number in range(first, first + self.batch_size):
                yield number, self.index(number)
            first += self.num_replicas * self.batch_size

    def index(self, number: int) -> int:
        """The dataset index of global sample ``number``."""
        number //= self.repeats
        if self.size is None:
            return number
        epoch, position = divmod(number, self.size)
        if epoch != self._permuted_epoch:
            self._permutation = torch.randperm(self.size, generator=generator(self.seed, "order", epoch))
            self._permuted_epoch = epoch
        return int(self._permutation[position])


class ShardSampler(DistributedSampler[tuple[int, int]]):
    """(i, i) for every index i below ``size``; rank r takes r, r + world_size, ..., never padded."""

    def __init__(self, size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(range(size), num_replicas=world_size, rank=rank)  # type: ignore[arg-type]
        self._own = range(rank, size, world_size)

    def __len__(self) -> int:
        return len(self._own)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((index, index) for index in self._own)
