"""Filling a folder with samples; what is there already is not made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastgen.layouts.folders import Layout
from fastgen.layouts.items import Item
from fastgen.storage.writing import remove_leftovers

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Work = tuple[Item, int, list[int]]
"""An item, its number, and the numbers of its pictures that are to be made."""


def fill(
    out: Path,
    layout: Layout,
    items: Sequence[Item],
    per_prompt: int,
    first_seed: int,
    batch_size: int,
    make: Callable[[list[int], list[str]], Tensor],
) -> int:
    """Write the pictures that are missing, then what names them all.

    Picture k of prompt i is made from seed ``first_seed + i * per_prompt + k``, whatever else is made with it.

    Args:
        out: The folder.
        layout: Where pictures go.
        items: The prompts.
        per_prompt: Pictures per prompt.
        first_seed: Seed of the first picture.
        batch_size: Pictures per call of ``make``, at most.
        make: Images (N, C, H, W) in [-1, 1] from seeds and prompts.

    Returns:
        How many pictures were made.
    """
    from fastgen.callbacks.bars import bar as progress

    layout.check(items, per_prompt)
    for folder in (out, *(path for path in out.rglob("*") if path.is_dir())):
        remove_leftovers(folder)  # judges would take them for pictures
    work = [(item, i, missing) for i, item in enumerate(items) if (missing := layout.missing(out, item, per_prompt))]
    total = per_prompt * len(items)
    todo = sum(len(missing) for _, _, missing in work)
    with progress(total=total, initial=total - todo, desc="sampling", unit="image") as bar:
        for group in groups(work, batch_size):
            seeds = [first_seed + i * per_prompt + k for _, i, missing in group for k in missing]
            prompts = [item.prompt for item, _, missing in group for _ in missing]
            pictures = iter(batches(seeds, prompts, batch_size, make))
            for item, _, missing in group:
                layout.write(out, item, {k: picture_of(next(pictures)) for k in missing})
                bar.update(len(missing))
    layout.finish(out, items, per_prompt)
    return todo


def groups(work: Sequence[Work], batch_size: int) -> Iterator[list[Work]]:
    """Whole items together, until they fill a batch."""
    group: list[Work] = []
    for entry in work:
        if group and sum(len(missing) for _, _, missing in [*group, entry]) > batch_size:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def batches(
    seeds: list[int], prompts: list[str], batch_size: int, make: Callable[[list[int], list[str]], Tensor]
) -> Iterator[Tensor]:
    """Images one by one, made ``batch_size`` at a time."""
    for start in range(0, len(seeds), batch_size):
        rows = slice(start, start + batch_size)
        yield from make(seeds[rows], prompts[rows])


def picture_of(image: Tensor) -> Image:
    """An image (C, H, W) in [-1, 1] as a PIL picture in RGB."""
    from PIL.Image import fromarray

    from fastgen.pictures.grids import pixels

    return fromarray(pixels(image[None])[0].numpy())
