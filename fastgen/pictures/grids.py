"""Pictures of samples: grids with captions, scatter plots, files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgen.errors import UserError
from fastgen.pictures.pixels import are_finite, refuse_not_finite, to_uint8
from fastgen.pictures.videos import save_animation, strips
from fastgen.storage.files import save_tensors
from fastgen.storage.writing import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

CELL = 48
"""Least pixels of the longer side of an image in a grid; smaller images are enlarged by a whole factor."""
GAP = 2
NO_PICTURE = (255, 0, 255)
"""The colour of what cannot be shown."""
CAPTION_SIZE = 13


def pixels(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in [-1, 1] or uint8 -> uint8 (N, H, W, 3).

    Raises:
        UserError: If they are neither grey nor RGB.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(f"A picture needs images of shape (N, 1 or 3, H, W), got {tuple(images.shape)}.")
    return to_uint8(images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu()


def tile(images: Tensor, columns: int) -> Tensor:
    """Images (N, C, H, W) row by row on white, uint8 (height, width, 3); tiny ones are enlarged, nearest neighbour.

    One with a value that is no finite number is magenta.
    """
    finite = are_finite(images).cpu()
    cells = pixels(torch.where(finite.to(images.device).reshape(-1, 1, 1, 1), images, 0)).clone()
    cells[~finite] = torch.tensor(NO_PICTURE, dtype=torch.uint8)
    factor = math.ceil(CELL / max(cells.shape[1:3]))
    cells = cells.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    count, height, width = cells.shape[:3]
    rows = math.ceil(count / columns)
    canvas = torch.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, dtype=torch.uint8)
    for i, cell in enumerate(cells):
        top, left = (i // columns) * (height + GAP), (i % columns) * (width + GAP)
        canvas[top : top + height, left : left + width] = cell
    return canvas


def grid(blocks: Sequence[Tensor], columns: int | None = None, captions: Sequence[str] | None = None) -> Image:
    """Blocks of images below each other, each under its caption.

    Args:
        blocks: Images (N, C, H, W) or videos (N, C, F, H, W) in [-1, 1] or uint8, one tensor per block.
        columns: Images per row; default nearly square, and one strip of frames for videos.
        captions: One line per block.
    """
    from PIL import Image, ImageDraw, ImageFont

    if blocks[0].ndim == 5:
        return grid([strips(block) for block in blocks], columns or 1, captions)
    columns = min(columns or math.ceil(math.sqrt(len(blocks[0]))), max(len(block) for block in blocks))
    tiles = [Image.fromarray(tile(block, columns).numpy()) for block in blocks]
    lines = list(captions or [""] * len(tiles))
    font = ImageFont.load_default(CAPTION_SIZE)
    line_height = CAPTION_SIZE + 6 if captions else 0
    text_width = max(math.ceil(font.getlength(line)) for line in lines) + 2 * GAP
    width = max(text_width if captions else 0, *(picture.width for picture in tiles))
    height = sum(picture.height + line_height for picture in tiles) + 2 * GAP * (len(tiles) - 1)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    top = 0
    for picture, line in zip(tiles, lines, strict=True):
        draw.text((GAP, top + 2), line, fill="black", font=font)
        canvas.paste(picture, (0, top + line_height))
        top += line_height + picture.height + 2 * GAP
    return canvas


def scatter(clouds: Mapping[str, Tensor], reference: Tensor | None = None) -> Image:
    """One panel per cloud of points, all on the same axes, over the reference in grey.

    A caption says how many points cannot be drawn because they are not finite.

    Args:
        clouds: Points (N, D) by caption; the first two coordinates are drawn.
        reference: Points (M, D) to compare with.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    scale = torch.cat(list(clouds.values())).float().cpu() if reference is None else reference.float().cpu()
    drawn = scale[:, :2][are_finite(scale[:, :2])].abs()
    limit = 1.25 * max(float(drawn.max()), 1e-6) if len(drawn) else 1.0
    figure = Figure(figsize=(3.2 * len(clouds), 3.4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (caption, points) in zip(figure.subplots(1, len(clouds), squeeze=False)[0], clouds.items(), strict=True):
        for cloud, colour in ((reference, "0.8"), (points, "tab:blue")):
            if cloud is not None:
                flat = cloud.float().cpu()
                second = flat[:, 1] if flat.shape[1] > 1 else torch.zeros(len(flat))
                axes.scatter(flat[:, 0], second, s=3, c=colour, linewidths=0)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        broken = len(points) - int(are_finite(points).sum())
        axes.set_title(f"{caption}, {broken} not finite" if broken else caption, fontsize=8)
        axes.tick_params(labelsize=7)
    canvas.draw()
    return Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")


def save_picture(picture: Image, path: str | Path) -> Path:
    """Write a picture atomically; the suffix names the format."""
    return write_atomically(path, lambda temporary: picture.save(temporary), durable=False)


def save_samples(
    samples: Tensor, path: str | Path, columns: int | None = None, names: Sequence[int] | None = None
) -> Path:
    """Write samples: one picture, one ``.safetensors`` file, or a folder with a file per image.

    Args:
        samples: Images (N, C, H, W) or videos (N, C, F, H, W) in [-1, 1], points (N, D) or clips of them (N, F, D).
        path: ``.png`` (or another picture format): a grid, or a scatter plot of points; frames of videos side by side,
            or a grid that plays in ``.webp`` and ``.gif``. ``.safetensors``: the numbers. No suffix: a folder of
            ``000042.png``, ``000042.webp`` for videos, or ``points.safetensors`` in it.
        columns: Columns of the grid; default nearly square.
        names: Numbers (seeds) that name the files of a folder; default 0, 1, ...

    Returns:
        What was written.

    Raises:
        UserError: If samples that are to be drawn hold values that are not finite numbers, before anything is written.
    """
    target = Path(path)
    numbers = list(range(len(samples))) if names is None else [int(name) for name in names]
    if target.suffix == ".safetensors":
        return save_tensors(target, {"samples": samples, "seed": torch.tensor(numbers)})
    refuse_not_finite(samples)
    video = samples.ndim == 5
    if video and target.suffix in (".webp", ".gif"):
        return save_animation([grid([frames], columns) for frames in samples.unbind(2)], target)
    if target.suffix:
        points = samples.flatten(0, 1) if samples.ndim == 3 else samples  # clips of points: all their frames
        picture = scatter({f"{len(samples)} samples": points}) if points.ndim == 2 else grid([samples], columns)
        try:
            return save_picture(picture, target)
        except ValueError as error:
            raise UserError(f"'{target.suffix}' is no picture format; use .png, or a folder (no suffix).") from error
    if samples.ndim in (2, 3):
        return save_samples(samples, target / "points.safetensors", names=numbers).parent
    from PIL import Image

    for number, sample in zip(numbers, samples, strict=True):
        frames = [Image.fromarray(frame.numpy()) for frame in pixels(sample.movedim(1, 0) if video else sample[None])]
        if video:
            save_animation(frames, target / f"{number:06d}.webp")
        else:
            save_picture(frames[0], target / f"{number:06d}.png")
    return target
