"""Folders of images, with class folders, captions or a metadata file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from fastgen import checks
from fastgen.configuration.components import Seed
from fastgen.data.base import DistillationData
from fastgen.data.pixels import SUFFIXES, open_picture, pictures_below
from fastgen.data.shapes import warn_of_crops
from fastgen.data.sources import Batch, BatchSource
from fastgen.data.tables import read_lines, read_table
from fastgen.errors import UserError
from fastgen.randomness import derive_seed, generator
from fastgen.sizes import height_and_width
from fastgen.storage.files import resolve

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 2**27
"""Pixels of an image after scaling and before cropping; only a very narrow one has more."""


@dataclass(frozen=True)
class _Entry:
    path: Path
    name: str  # relative to the root, with forward slashes: the same on every system
    label: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class ImageReader:
    """Reads one image file.

    Args:
        size: Height and width of the result in pixels, or the side of a square.
        color: ``rgb`` gives three channels, ``grey`` one.
        resize: Scale until the result is just covered (Lanczos) and crop the centre; if false, files must have exactly
            that size.
        mend: What to do about a file of another size, for the message.
    """

    size: int | tuple[int, int]
    color: Literal["rgb", "grey"] = "rgb"
    resize: bool = True
    mend: str = "resize it or set data.resize: true"

    @property
    def height(self) -> int:
        """Of the result, in pixels."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Of the result, in pixels."""
        return self.size if isinstance(self.size, int) else self.size[1]

    def __call__(self, path: Path) -> Tensor:
        """The image as uint8 (C, height, width), as :func:`open_picture` shows it.

        Raises:
            UserError: If the file is missing, is not a whole image, or has the wrong size.
        """
        import numpy as np

        array = np.asarray(self._fit(open_picture(path, self.color), path))
        return torch.from_numpy(array.copy()).reshape(self.height, self.width, -1).permute(2, 0, 1)

    def _fit(self, image: Image, path: Path) -> Image:
        from PIL.Image import Resampling

        width, height = image.size
        if not self.resize:
            if (width, height) != (self.width, self.height):
                raise UserError(
                    f"The image '{path}' is {width}x{height} pixels, not {self.width}x{self.height}; {self.mend}."
                )
            return image
        scale = max(self.width / width, self.height / height)  # the smallest that covers both sides
        width, height = max(self.width, round(width * scale)), max(self.height, round(height * scale))
        if width * height > LARGEST:
            raise UserError(f"The image '{path}' is too narrow ({image.width}x{image.height} pixels); leave it out.")
        left, top = (width - self.width) // 2, (height - self.height) // 2
        box = (left, top, left + self.width, top + self.height)
        return image.resize((width, height), Resampling.LANCZOS).crop(box)


class _ImageSource(BatchSource):
    def __init__(self, entries: Sequence[_Entry], reader: ImageReader) -> None:
        self.size = len(entries)
        self.entries = list(entries)
        self.reader = reader

    def batch(self, indices: Sequence[int]) -> Batch:
        entries = [self.entries[i] for i in indices]
        images = torch.stack([self.reader(entry.path) for entry in entries])
        return {"x0": images.float() / 127.5 - 1, "condition": _condition(entries)}


def _condition(entries: Sequence[_Entry]) -> dict[str, Any]:
    if entries[0].label is not None:
        return {"label": torch.tensor([entry.label for entry in entries])}
    if entries[0].text is not None:
        return {"prompt": [entry.text for entry in entries]}
    return {}


class ImageFolder(DistillationData):
    """Images in a folder (and its subfolders), in [-1, 1], as they look on a white page.

    Transparent parts become white, 16 bits per value are scaled to 8, and of several frames the first is taken.

    All images of a run have one size. Of pictures of other shapes the largest centred part of that shape is kept; if
    that cuts more than a third away from more than a tenth of them, a warning says so. There are no buckets of shapes:
    for a folder of wide and tall pictures choose the shape that most of them have, or train on one folder per shape.

    Args:
        root: The folder.
        resolution: Side of square images, in pixels.
        height: Height of images in pixels, given together with ``width`` in place of ``resolution``.
        width: Width of images in pixels.
        annotation: Where conditions come from. ``none``: there are none. ``folders``: the first subfolder is the class.
            ``sidecar``: ``name.txt`` next to ``name.png`` is the prompt. Anything else is a metadata file (.csv,
            .tsv or .jsonl; a relative path is looked up in ``root`` first) with a column ``file_name`` and a column
            ``text`` (prompts) or ``label`` (classes, sorted by name, or by value if all are integers).
        color: ``rgb`` or ``grey``.
        resize: Scale and crop the centre; if false, a file of another size is an error.
        held_out_fraction: Share of the images that is held out, one half for validation and one for test, chosen by a
            hash of the file name, so that adding files moves no other.
        on_error: ``stop`` ends the run at the first unreadable image. ``skip`` reads every image once at the start,
            leaves the unreadable ones out and warns with their number; so the order of the others does not depend on
            workers or ranks.
        reference_count: Largest number of training images that samples are compared with; ``None`` takes all. They are
            kept in memory.
        batch_size: Images per rank and batch.
        seed: Seed of the sample order; ``seed_everything`` is that of the run.
        num_workers: Loader processes per rank.
        predict_count: Number of samples that ``fastgen predict`` makes.
    """

    def __init__(
        self,
        root: str,
        resolution: int | None = None,
        height: int | None = None,
        width: int | None = None,
        annotation: str = "none",
        color: Literal["rgb", "grey"] = "rgb",
        resize: bool = True,
        held_out_fraction: float = 0.1,
        on_error: Literal["stop", "skip"] = "stop",
        reference_count: int | None = 5000,
        batch_size: int = 32,
        seed: Seed = "seed_everything",
        num_workers: int = 0,
        predict_count: int = 64,
    ) -> None:
        checks.between(self, 0.0, 1.0, "[)", held_out_fraction=held_out_fraction)
        checks.whole(self, reference_count=reference_count)
        super().__init__(batch_size, seed, num_workers, predict_count)
        self.root = root
        self.annotation = annotation
        self.reader = ImageReader(height_and_width(self, resolution, height, width), color, resize)
        self.held_out_fraction = held_out_fraction
        self.on_error = on_error
        self.reference_count = reference_count
        self._label_names: list[str] | None = None
        self._skipped = 0

    @property
    def num_classes(self) -> int | None:
        """Number of class folders or of different labels in the metadata."""
        return None if self.label_names is None else len(self.label_names)

    @property
    def label_names(self) -> list[str] | None:
        """Names of the class folders or labels in the metadata, in the order of their numbers."""
        _ = self.sources
        return self._label_names

    @property
    def skipped(self) -> int:
        """Number of unreadable images that were left out."""
        _ = self.sources
        return self._skipped

    def make_sources(self) -> tuple[BatchSource, ...]:
        """Find the files, read the annotation and split."""
        root = resolve(self.root)
        if not root.is_dir():
            raise UserError(f"data.root '{self.root}' is not a folder; give the folder that holds the images.")
        entries = self._annotate(root)
        if not entries:
            raise UserError(f"'{self.root}' holds no image ({', '.join(sorted(SUFFIXES))}); check data.root.")
        if self.on_error == "skip":
            entries = self._readable(entries)
        parts: tuple[list[_Entry], ...] = ([], [], [])
        for entry in entries:
            place = derive_seed(entry.name) / 2**63
            parts[0 if place >= self.held_out_fraction else 1 if place < self.held_out_fraction / 2 else 2].append(
                entry
            )
        train = parts[0]
        if not train:
            raise UserError(f"All {len(entries)} images of '{self.root}' are held out; lower data.held_out_fraction.")
        if self.reader.resize:
            warn_of_crops([entry.path for entry in entries], (self.reader.height, self.reader.width), self.root)
        return tuple(_ImageSource(part, self.reader) for part in parts)

    def _annotate(self, root: Path) -> list[_Entry]:
        if self.annotation not in ("none", "folders", "sidecar"):
            return self._from_metadata(root)
        entries = [_Entry(path, path.relative_to(root).as_posix()) for path in pictures_below(root)]
        if self.annotation == "folders":
            return self._with_labels(entries, [_class_folder(entry) for entry in entries])
        if self.annotation == "sidecar":
            return [replace(entry, text=_sidecar(entry.path)) for entry in entries]
        return entries

    def _from_metadata(self, root: Path) -> list[_Entry]:
        inside = root / self.annotation
        file = inside if inside.is_file() else resolve(self.annotation)
        table = read_table(file)
        entries = [_Entry(root / name, Path(name).as_posix()) for name in table.column("file_name")]
        kind = table.first(("text", "label"))
        if table.rows and kind is None:
            raise UserError(f"'{file}' has neither a 'text' nor a 'label' column; add one.")
        values = table.column(kind, numbers=kind == "label") if kind else []
        if kind == "label":
            return self._with_labels(entries, values)
        return [replace(entry, text=text) for entry, text in zip(entries, values, strict=True)]

    def _with_labels(self, entries: list[_Entry], names: list[str]) -> list[_Entry]:
        numeric = all(re.fullmatch("-?[0-9]{1,18}", name) for name in names)
        self._label_names = sorted(set(names), key=(lambda name: (int(name), name)) if numeric else None)
        number = {name: i for i, name in enumerate(self._label_names)}
        return [replace(entry, label=number[name]) for entry, name in zip(entries, names, strict=True)]

    def _readable(self, entries: list[_Entry]) -> list[_Entry]:
        def problem(entry: _Entry) -> str | None:
            try:
                self.reader(entry.path)
            except UserError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            problems = list(pool.map(problem, entries))
        failures = [text for text in problems if text is not None]
        self._skipped = len(failures)
        if len(failures) == len(entries):
            raise UserError(f"No image of '{self.root}' can be read. The first: {failures[0]}")
        if failures:
            count = f"{len(failures)} of {len(entries)}"
            rank_zero_warn(f"Left out {count} images of '{self.root}'. The first: {failures[0]}")
        return [entry for entry, text in zip(entries, problems, strict=True) if text is None]

    def evaluation_conditions(self, indices: Sequence[int]) -> dict[str, Any]:
        """Balanced labels, or the held-out captions (the training captions if none is held out), repeated."""
        train, held_out = self.sources[0], self.measured
        assert isinstance(train, _ImageSource) and isinstance(held_out, _ImageSource)
        entries = held_out.entries or train.entries
        if entries[0].text is None:
            return super().evaluation_conditions(indices)
        return {"prompt": [entries[i % len(entries)].text for i in indices]}

    def reference(self) -> dict[str, Tensor]:
        """Training images in a random order that is equal for all seeds, at most ``reference_count``."""
        train = self.sources[0]
        assert isinstance(train, _ImageSource)
        order = torch.randperm(len(train.entries), generator=generator(0, "reference")).tolist()
        entries = [train.entries[i] for i in order[: self.reference_count]]
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            images = torch.stack(list(pool.map(lambda entry: self.reader(entry.path), entries)))
        label = {"label": torch.tensor([entry.label for entry in entries])} if self._label_names else {}
        return {"samples": images, **label}


def _class_folder(entry: _Entry) -> str:
    folder, _, rest = entry.name.partition("/")
    if not rest:
        raise UserError(f"The image '{entry.path}' lies in no class folder; move it or set data.annotation: none.")
    return folder


def _sidecar(path: Path) -> str:
    file = path.with_suffix(".txt")
    text = " ".join(read_lines(file)) if file.is_file() else ""
    if not text:
        raise UserError(f"The image '{path}' has no caption; write one to '{file.name}' next to it.")
    return text
