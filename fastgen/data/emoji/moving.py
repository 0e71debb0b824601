"""Drawings of an emoji font that move, turn and grow as their captions say."""

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
from fastgen.data.emoji.drawings import HELD_OUT, VISIBLE, read_drawings
from fastgen.data.emoji.fonts import find_font, render
from fastgen.data.emoji.motions import MOTION_WORDS, SEQUENCES, Clip, clip_caption, film, poses
from fastgen.data.emoji.pictures import BACKGROUNDS, shrink, visible_share
from fastgen.data.sources import Batch, BatchSource
from fastgen.errors import UserError
from fastgen.randomness import Draws, derive_seed

SAID = 0.5
"""Probability that a caption says the background."""
PARTS = ("train", "validation", "test")


def part_of(clip: Clip) -> str:
    """To which part a clip belongs, by a hash of what it shows."""
    place = derive_seed(*(str(value) for value in vars(clip).values())) / 2**63
    return PARTS[0 if place >= HELD_OUT else 1 if place < HELD_OUT / 2 else 2]


class _ClipSource(BatchSource):
    """Clips with captions; sample n is a pure function of the seed and n."""

    def __init__(self, data: MovingEmoji, part: str, seed: int, size: int | None = None) -> None:
        self.size = size
        self.data = data
        self.part = part
        self.seed = seed

    def shown(self, indices: Sequence[int]) -> list[Clip]:
        """What the clips ``indices`` show: the first of several draws that belongs to the part."""
        found: dict[int, Clip] = {}
        attempt = 0
        while left := [n for n in indices if n not in found]:
            draws = Draws(self.seed, left).scoped(f"attempt{attempt}")
            names = draws.integers("drawing", len(self.data.names)).tolist()
            grounds = draws.integers("background", len(BACKGROUNDS)).tolist()
            sequences = draws.integers("motion", len(SEQUENCES)).tolist()
            for n, *chosen in zip(left, names, grounds, sequences, strict=True):
                clip = self.data.clip(*chosen)
                if part_of(clip) == self.part and self.data.shows(clip):
                    found[n] = clip
            attempt += 1
        return [found[n] for n in indices]

    def said(self, indices: Sequence[int]) -> list[Clip]:
        """What the captions of ``indices`` say."""
        says = (Draws(self.seed, indices).uniform("says background") < SAID).tolist()
        return [c if told else replace(c, background=None) for c, told in zip(self.shown(indices), says, strict=True)]

    def captions(self, indices: Sequence[int]) -> list[str]:
        """The captions of samples ``indices``."""
        draws = Draws(self.seed, indices)
        parts = ("first", "second", "way", "background", "spelling")
        words = torch.stack([draws.uniform(f"words of {part}") for part in parts], 1).tolist()
        return [clip_caption(said, row) for said, row in zip(self.said(indices), words, strict=True)]

    def batch(self, indices: Sequence[int]) -> Batch:
        condition = {"prompt": self.captions(indices)}
        if not self.data.with_x0:
            return {"condition": condition}
        shown, said = self.shown(indices), self.said(indices)
        clips = torch.stack([self.data.frames_of(clip) for clip in shown])
        facts = {"shown": self.data.numbers(shown), "said": self.data.numbers(said)}
        return {"x0": clips.float() / 127.5 - 1, "condition": condition, "facts": facts}


class MovingEmoji(DistillationData):
    """Clips (3, F, R, R) in [-1, 1] of drawings that move in a direction, turn, grow or shrink, with captions.

    Half-way the motion may change (``first moves left, then grows``), so that the order of frames matters. Captions say
    the motions always and the background in half of the cases. A hash of the combination holds a tenth out. As with
    :class:`~fastgen.data.emoji.Emoji`, sample n depends on ``seed`` and n alone, and the font is not part of fastgen.

    With clips a batch holds ``facts`` too: what is ``shown`` and what is ``said``, (B, 4) int64 each: the numbers of
    drawing, background (-1 where nothing is said), first and second motion (-1 where it does not change).

    Args:
        font: Path of the font or of a folder of pictures, or ``system``.
        drawings: List of the drawings: a code point and a name per line.
        resolution: Side of the frames in pixels.
        frames: Frames of a clip; Wan's VAE takes one more than a multiple of four.
        with_x0: Whether batches hold clips; without them training is data-free, on captions alone.
        held_out_count: Number of validation samples, and of test samples.
        reference_count: Number of clips that samples are compared with.
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
        frames: int = 9,
        with_x0: bool = True,
        held_out_count: int = 256,
        reference_count: int = 1024,
        batch_size: int = 16,
        seed: Seed = "seed_everything",
        num_workers: int = 0,
        predict_count: int = 16,
    ) -> None:
        checks.whole(self, held_out_count=held_out_count, reference_count=reference_count)
        checks.whole(self, 16, 128, resolution=resolution)
        checks.whole(self, 3, 65, frames=frames)
        super().__init__(batch_size, seed, num_workers, predict_count)
        self.font = font
        self.list_of_drawings = drawings
        self.resolution = resolution
        self.frames = frames
        self.with_x0 = with_x0
        self.held_out_count = held_out_count
        self.reference_count = reference_count

    @cached_property
    def sprites(self) -> dict[str, Tensor]:
        """The drawings by name, as large as a frame: (4, R, R)."""
        characters = read_drawings(self.list_of_drawings)
        rendered = render(find_font(self.font), list(characters.values()))
        return {n: shrink(drawing, self.resolution) for n, drawing in zip(characters, rendered, strict=True)}

    @cached_property
    def names(self) -> list[str]:
        """Names of the drawings."""
        return list(self.sprites)

    @cached_property
    def _visible(self) -> set[tuple[str, str]]:
        pairs = ((name, ground) for name in self.names for ground in BACKGROUNDS)
        return {(name, ground) for name, ground in pairs if visible_share(self.sprites[name], ground) >= VISIBLE}

    def shows(self, clip: Clip) -> bool:
        """Whether the drawing does not vanish on its background."""
        return (clip.name, clip.background) in self._visible

    def clip(self, drawing: int, background: int, sequence: int) -> Clip:
        """What a combination shows."""
        return Clip(self.names[drawing], list(BACKGROUNDS)[background], *SEQUENCES[sequence])

    def frames_of(self, clip: Clip) -> Tensor:
        """The clip itself, uint8 (3, F, R, R)."""
        assert clip.background is not None
        path = poses(clip.first, clip.second, self.frames)
        return film(self.sprites[clip.name], clip.background, path, self.resolution)

    def numbers(self, clips: Sequence[Clip]) -> Tensor:
        """Drawing, background and motions as numbers, (N, 4) int64."""
        tables = [{value: i for i, value in enumerate(table)} for table in (self.names, BACKGROUNDS, MOTION_WORDS)]
        tables.append(tables[-1])
        rows = [[t.get(v, -1) for t, v in zip(tables, vars(clip).values(), strict=True)] for clip in clips]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)

    def make_sources(self) -> tuple[BatchSource, ...]:
        """The endless training stream, and ``held_out_count`` samples each of two others, equal for all seeds.

        Raises:
            UserError: If no drawing shows anywhere.
        """
        if not self._visible:
            raise UserError(f"No drawing of '{self.list_of_drawings}' shows on any background; give other drawings.")
        train = _ClipSource(self, "train", derive_seed(self.seed, "train"))
        return train, *(_ClipSource(self, part, derive_seed(part), self.held_out_count) for part in PARTS[1:])

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """Captions of held-out combinations, a new one for every index."""
        measured = self.measured
        assert isinstance(measured, _ClipSource)
        return {"prompt": measured.captions(indices)}

    def reference(self) -> dict[str, Tensor]:
        """Clips of combinations that training shows, equal for all seeds: uint8 (N, 3, F, R, R)."""
        shown = _ClipSource(self, "train", derive_seed("reference")).shown(range(self.reference_count))
        return {"samples": torch.stack([self.frames_of(clip) for clip in shown])}
