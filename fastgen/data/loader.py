"""A loader of batches from a source, whose workers say what is wrong in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fastgen.data.sources import Batch, BatchSource
from fastgen.errors import UserError


@dataclass(frozen=True)
class Failure:
    """A :class:`UserError` on its way from a worker: torch would wrap a raised one into a traceback text."""

    message: str


class Fetched(Dataset[Any]):
    """The batches of a source, by pairs of a sample's number and its index.

    Args:
        source: Whose.
    """

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __getitem__(self, pair: tuple[int, int]) -> Batch | Failure:
        return self.__getitems__([pair])

    def __getitems__(self, pairs: list[tuple[int, int]]) -> Batch | Failure:
        try:
            batch = self.source.batch([index for _, index in pairs])
            return {"index": torch.tensor([number for number, _ in pairs]), **batch}
        except UserError as error:
            return Failure(str(error))


def as_fetched(batch: Any) -> Any:
    """A batch that is one already: the ``collate_fn`` of :class:`Fetched`."""
    return batch


class Loader(DataLoader[Any]):
    """A loader whose worker errors are raised in the main process as the one sentence they were."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, Failure):
                raise UserError(batch.message)
            yield batch
