"""Prompts without images, for data-free distillation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fastgen.configuration.components import Seed
from fastgen.data.base import DistillationData
from fastgen.data.sources import Batch, BatchSource
from fastgen.data.tables import SUFFIXES, read_lines, read_table
from fastgen.errors import UserError
from fastgen.storage.files import resolve

PLAIN = ("", ".txt")
"""Suffixes of files with one prompt per line."""
TRAINING = "training prompts"
"""In place of a file."""


def read_prompts(path: str) -> list[str]:
    r"""The prompts of a ``.txt`` (one per line), ``.jsonl``, ``.csv`` or ``.tsv`` file (column ``text`` or ``prompt``).

    Files are UTF-8; only ``\n`` and ``\r\n`` end a line. A cell in quotes may hold several lines.

    Raises:
        UserError: If the file is missing, is something else, has no such column, or a prompt is no text.
    """
    file: Path = resolve(path)
    if not file.is_file():
        raise UserError(f"'{path}' is not a file; give a .txt, .jsonl, .csv or .tsv file with prompts.")
    kind = file.suffix.lower()
    if kind in SUFFIXES:
        table = read_table(file)
        name = table.first(("text", "prompt"))
        if table.rows and name is None:
            raise UserError(f"'{path}' has neither a 'text' nor a 'prompt' column; rename the column with the prompts.")
        prompts = table.column(name) if name else []
    elif kind in PLAIN:
        prompts = read_lines(file)
    else:
        raise UserError(f"'{path}' is no kind of prompts file; make it .txt (one per line), .jsonl, .csv or .tsv.")
    if not prompts:
        raise UserError(f"'{path}' holds no prompt; write one per line.")
    return prompts


def read_styles(path: str) -> list[str] | None:
    """The column ``style`` of a table of prompts, ``None`` if there is none."""
    file = resolve(path)
    table = read_table(file) if file.suffix.lower() in SUFFIXES else None
    return table.column("style", numbers=True) if table and table.first(("style",)) else None


class _PromptSource(BatchSource):
    def __init__(self, prompts: Sequence[str]) -> None:
        self.size = len(prompts)
        self.prompts = list(prompts)

    def batch(self, indices: Sequence[int]) -> Batch:
        return {"condition": {"prompt": [self.prompts[i] for i in indices]}}


class Prompts(DistillationData):
    """Data-free batches ``{"condition": {"prompt": [...]}}``.

    Args:
        path: File with the training prompts: one per line (.txt), or .jsonl/.csv/.tsv with a column ``text`` or
            ``prompt``.
            ``asset:prompts_toy.txt`` ships with fastgen. A column ``style`` groups the numbers of an evaluation.
        held_out: File with prompts for validation, test and evaluation; ``training prompts`` are those of ``path``, of
            which the first batch is for validation.
        batch_size: Prompts per rank and batch.
        seed: Seed of the order; ``seed_everything`` is that of the run.
        num_workers: Loader processes per rank.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self,
        path: str,
        held_out: str = TRAINING,
        batch_size: int = 8,
        seed: Seed = "seed_everything",
        num_workers: int = 0,
        predict_count: int = 32,
    ) -> None:
        super().__init__(batch_size, seed, num_workers, predict_count)
        self.path = path
        self.held_out = held_out

    def make_sources(self) -> tuple[BatchSource, ...]:
        """Training prompts; held-out prompts or the first batch of the training prompts."""
        train = read_prompts(self.path)
        test = train[: self.batch_size] if self.held_out == TRAINING else read_prompts(self.held_out)
        return _PromptSource(train), _PromptSource(test)

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """The held-out prompts (the training prompts if there are none) in file order, repeated from the start."""
        source = self.sources[0 if self.held_out == TRAINING else 1]
        assert isinstance(source, _PromptSource)
        return {"prompt": [source.prompts[i % len(source.prompts)] for i in indices]}

    @cached_property
    def styles(self) -> list[str] | None:
        """The style of every evaluation prompt, ``None`` if the file has none."""
        return read_styles(self.path if self.held_out == TRAINING else self.held_out)

    def evaluation_groups(self, indices: Sequence[int]) -> dict[str, list[str]]:
        """The styles of the prompts."""
        styles = self.styles
        return {} if styles is None else {"style": [styles[i % len(styles)] for i in indices]}
