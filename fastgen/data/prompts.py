"""Prompts without images, for data-free distillation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fastgen.data.base import Batch, BatchSource, DistillationData
from fastgen.data.tables import column, first_column, read_lines, read_rows
from fastgen.errors import UserError
from fastgen.files import resolve


def read_prompts(path: str) -> list[str]:
    """The prompts of a ``.txt`` (one per line), ``.jsonl`` or ``.csv`` file (column ``text`` or ``prompt``).

    Raises:
        UserError: If the file is missing, empty or has no such column.
    """
    file: Path = resolve(path)
    if not file.is_file():
        raise UserError(f"'{path}' is not a file; give a .txt, .jsonl or .csv file with prompts.")
    if file.suffix in (".jsonl", ".csv"):
        rows = read_rows(file)
        name = first_column(rows, ("text", "prompt"))
        if rows and name is None:
            raise UserError(f"'{path}' has neither a 'text' nor a 'prompt' column; rename the column with the prompts.")
        prompts = column(rows, name, file) if name else []
    else:
        prompts = read_lines(file)
    if not prompts:
        raise UserError(f"'{path}' holds no prompt; write one per line.")
    return prompts


def read_styles(path: str) -> list[str] | None:
    """The column ``style`` of a ``.jsonl`` or ``.csv`` file of prompts, ``None`` if there is none."""
    file = resolve(path)
    rows = read_rows(file) if file.suffix in (".jsonl", ".csv") else []
    return column(rows, "style", file) if first_column(rows, ("style",)) else None


class _PromptSource(BatchSource):
    def __init__(self, prompts: Sequence[str]) -> None:
        self.size = len(prompts)
        self.prompts = list(prompts)

    def batch(self, indices: Sequence[int]) -> Batch:
        return {"condition": {"prompt": [self.prompts[i] for i in indices]}}


class Prompts(DistillationData):
    """Data-free batches ``{"condition": {"prompt": [...]}}``.

    Args:
        path: File with the training prompts: one per line (.txt), or .jsonl/.csv with a ``text`` or ``prompt`` column.
            ``asset:prompts_toy.txt`` ships with fastgen. A column ``style`` groups the numbers of an evaluation.
        held_out: File with prompts for validation and evaluation; ``None`` takes the training prompts (and validates
            on the first batch of them).
        batch_size: Prompts per rank and batch.
        seed: Seed of the order.
        num_workers: Loader processes per rank.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self,
        path: str,
        held_out: str | None = None,
        batch_size: int = 8,
        seed: int = 0,
        num_workers: int = 0,
        predict_count: int = 32,
    ) -> None:
        super().__init__(batch_size, seed, num_workers, predict_count)
        self.path = path
        self.held_out = held_out

    def make_sources(self) -> tuple[BatchSource, BatchSource]:
        """Training prompts; held-out prompts or the first batch of the training prompts."""
        train = read_prompts(self.path)
        test = train[: self.batch_size] if self.held_out is None else read_prompts(self.held_out)
        return _PromptSource(train), _PromptSource(test)

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """The held-out prompts (the training prompts if there are none) in file order, repeated from the start."""
        source = self.sources[0 if self.held_out is None else 1]
        assert isinstance(source, _PromptSource)
        return {"prompt": [source.prompts[i % len(source.prompts)] for i in indices]}

    @cached_property
    def styles(self) -> list[str] | None:
        """The style of every evaluation prompt, ``None`` if the file has none."""
        return read_styles(self.path if self.held_out is None else self.held_out)

    def evaluation_groups(self, indices: Sequence[int]) -> dict[str, list[str]]:
        """The styles of the prompts."""
        styles = self.styles
        return {} if styles is None else {"style": [styles[i % len(styles)] for i in indices]}
