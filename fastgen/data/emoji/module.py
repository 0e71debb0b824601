"""Drawings of an emoji font with captions: endless pictures that a few words describe, on any machine with the font."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Seed
from fastgen.data.base import DistillationData
from fastgen.data.emoji.captions import Picture, caption
from fastgen.data.emoji.drawings import Drawings, flat, read_drawings
from fastgen.data.emoji.fonts import find_font
from fastgen.data.sources import Batch, BatchSource
from fastgen.errors import UserError
from fastgen.randomness import Draws, derive_seed

SAID = 0.5
"""Probability that a caption says the background; the same for size and for position."""


class _EmojiSource(BatchSource):
    """Pictures with captions; sample n is a pure function of the seed and n.

    Args:
        drawings: What is shown.
        rows: Of every drawing the combinations to choose from.
        seed: Of the choice.
        size: Number of samples; ``None`` is one for every number.
        with_x0: Whether batches hold the pictures.
        group: This many samples in a row show one drawing.
    """

    def __init__(
        self,
        drawings: Drawings,
        rows: list[list[int]],
        seed: int,
        size: int | None = None,
        with_x0: bool = True,
        group: int = 1,
    ) -> None:
        self.size = size
        self.drawings = drawings
        self.rows = rows
        self.known = [number for number, row in enumerate(rows) if row]
        self.seed = seed
        self.with_x0 = with_x0
        self.group = group

    def shown(self, indices: Sequence[int]) -> list[Picture]:
        """What the pictures ``indices`` show."""
        draws = Draws(self.seed, indices)
        first = Draws(self.seed, [n - n % self.group for n in indices])
        chosen = [self.known[i] for i in first.integers("drawing", len(self.known)).tolist()]
        places = draws.uniform("combination").tolist()
        rows = [self.rows[i] for i in chosen]
        numbers = [row[int(place * len(row))] for row, place in zip(rows, places, strict=True)]
        return [self.drawings.picture(*pair) for pair in zip(chosen, numbers, strict=True)]

    def said(self, indices: Sequence[int]) -> list[Picture]:
        """What the captions of ``indices`` say of their pictures."""
        draws = Draws(self.seed, indices)
        parts = ("background", "size", "position")
        says = torch.stack([draws.uniform(f"says {part}") < SAID for part in parts], 1).tolist()
        hidden = ([part for part, told in zip(parts, row, strict=True) if not told] for row in says)
        return [replace(p, **dict.fromkeys(row)) for p, row in zip(self.shown(indices), hidden, strict=True)]

    def captions(self, indices: Sequence[int]) -> list[str]:
        """The captions of samples ``indices``."""
        draws = Draws(self.seed, indices)
        parts = ("sentence", "size", "position", "background", "spelling")
        words = torch.stack([draws.uniform(f"words of {part}") for part in parts], 1).tolist()
        return [caption(said, row) for said, row in zip(self.said(indices), words, strict=True)]

    def batch(self, indices: Sequence[int]) -> Batch:
        condition = {"prompt": self.captions(indices)}
        if not self.with_x0:
            return {"condition": condition}
        shown, said = self.shown(indices), self.said(indices)
        pixels = torch.stack([self.drawings.pixels(picture) for picture in shown])
        facts = {"shown": self.drawings.numbers(shown), "said": self.drawings.numbers(said)}
        return {"x0": pixels.float() / 127.5 - 1, "condition": condition, "facts": facts}


class Emoji(DistillationData):
    """The colour drawings of an emoji font on coloured backgrounds, (3, R, R) in [-1, 1], with captions.

    A drawing has eight backgrounds, two sizes and five places. A caption names the drawing and says each of the three
    in half of the cases, in several wordings: what is not said may be anything, so the law of a caption is wide. Of the
    combinations a hash holds a tenth out (one half for validation, one for test), so those are new to whatever was
    trained here; combinations in which a drawing vanishes on its background are left out. Samples are drawn without
    an end: sample n depends on ``seed`` and n alone.

    The font is not part of fastgen: Debian and Ubuntu have it as the package ``fonts-noto-color-emoji`` (SIL Open Font
    License 1.1).

    With pictures a batch holds ``facts`` too: what is ``shown`` and what is ``said``, (B, 4) int64 each, the numbers of
    drawing, background, size and position, -1 where nothing is said.

    Args:
        font: Path of the font, or ``system``: Noto Color Emoji where the system keeps fonts. A folder is one of
            transparent pictures named by code point, such as ``1F34E.png``.
        drawings: List of the drawings: a code point and a name per line. ``asset:emoji_drawings.txt`` has 303.
        resolution: Side of the pictures in pixels, a multiple of 8.
        with_x0: Whether batches hold pictures; without them training is data-free, on captions alone.
        group: This many samples in a row show one drawing, so that a batch has pairs that differ by little; 1 shows
            every sample its own.
        held_out_count: Number of validation samples, and of test samples.
        reference_count: Number of pictures that samples are compared with.
        repeats: So many evaluation samples in a row have one caption. What a caption leaves open can be seen to differ
            from 2 on.
        batch_size: Samples per rank and batch.
        seed: Seed of the training samples; ``seed_everything`` is that of the run.
        num_workers: Loader processes per rank.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self,
        font: str = "system",
        drawings: str = "asset:emoji_drawings.txt",
        resolution: int = 32,
        with_x0: bool = True,
        group: int = 1,
        held_out_count: int = 512,
        reference_count: int = 4096,
        repeats: int = 2,
        batch_size: int = 32,
        seed: Seed = "seed_everything",
        num_workers: int = 0,
        predict_count: int = 64,
    ) -> None:
        checks.whole(self, group=group, held_out_count=held_out_count, reference_count=reference_count, repeats=repeats)
        checks.whole(self, 16, 128, resolution=resolution)
        if resolution % 8:
            raise UserError(f"{type(self).__name__}'s resolution is a multiple of 8, got {resolution}.")
        super().__init__(batch_size, seed, num_workers, predict_count)
        self.font = font
        self.list_of_drawings = drawings
        self.resolution = resolution
        self.with_x0 = with_x0
        self.group = group
        self.held_out_count = held_out_count
        self.reference_count = reference_count
        self.repeats = repeats

    @cached_property
    def drawings(self) -> Drawings:
        """The drawings, rendered."""
        return Drawings.of_font(find_font(self.font), read_drawings(self.list_of_drawings), self.resolution)

    @cached_property
    def parts(self) -> tuple[list[list[int]], ...]:
        """The combinations of training, validation and test, by drawing."""
        return self.drawings.parts()

    @property
    def names(self) -> list[str]:
        """Names of the drawings."""
        return self.drawings.names

    def make_sources(self) -> tuple[BatchSource, ...]:
        """The endless training stream, and ``held_out_count`` samples each of two others, equal for all seeds."""
        held_out = (
            _EmojiSource(self.drawings, rows, derive_seed(name), self.held_out_count, self.with_x0)
            for name, rows in zip(("validation", "test"), self.parts[1:], strict=True)
        )
        train = _EmojiSource(
            self.drawings, self.parts[0], derive_seed(self.seed, "train"), None, self.with_x0, self.group
        )
        return train, *held_out

    def captions_to_evaluate(self) -> _EmojiSource:
        """Endless held-out samples, of which the first ``held_out_count`` are those that are measured."""
        measured = self.measured
        assert isinstance(measured, _EmojiSource)
        return measured

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """Captions of held-out combinations, a new one for every ``repeats`` indices."""
        return {"prompt": self.captions_to_evaluate().captions([i // self.repeats for i in indices])}

    def evaluation_groups(self, indices: Sequence[int]) -> dict[str, list[Any]]:
        """What the captions say, by attribute; what they leave open is left out."""
        said = self.captions_to_evaluate().said([i // self.repeats for i in indices])
        return {"said": [{name: value for name, value in vars(p).items() if value is not None} for p in said]}

    def evaluation_samples(self, indices: Sequence[int]) -> Tensor:
        """For every index a picture of which its caption is true, drawn among all of its combinations that can be seen.

        uint8 (N, 3, R, R).
        """
        said = self.captions_to_evaluate().said([i // self.repeats for i in indices])
        draws = Draws(derive_seed("evaluation samples"), indices).uniform("combination").tolist()
        pictures = []
        for asked, place in zip(said, draws, strict=True):
            drawing = self.names.index(asked.name or "")
            there = sorted(number for part in self.parts for number in part[drawing])
            true = [p for p in (self.drawings.picture(drawing, number) for number in there) if asked.holds_of(p)]
            pictures.append(self.drawings.pixels(true[int(place * len(true))]))
        return torch.stack(pictures)

    def reference(self) -> dict[str, Tensor]:
        """Pictures of combinations that training shows, equal for all seeds."""
        source = _EmojiSource(self.drawings, self.parts[0], derive_seed("reference"))
        pictures = [self.drawings.pixels(picture) for picture in source.shown(range(self.reference_count))]
        return {"samples": torch.stack(pictures)}

    def pictures_of(self, part: int) -> tuple[Tensor, list[Picture]]:
        """All pictures of training (0), validation (1) or test (2), uint8 (N, 3, R, R), and what they show."""
        shown = [self.drawings.picture(*pair) for pair in flat(self.parts[part]).tolist()]
        return torch.stack([self.drawings.pixels(picture) for picture in shown]), shown
