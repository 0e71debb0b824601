"""The README's first picture: words, and what the miniature teacher and its students draw from them.

    fastgen fit --config configs/sid_emoji.yaml
    fastgen fit --config configs/dmd2_emoji.yaml
    python -m benchmarks.emoji_picture --one runs/sid_emoji/version_0/checkpoints/last.ckpt \\
        --four runs/dmd2_emoji/version_0/checkpoints/last.ckpt

Rows: the teacher with 50 calls, the teacher with one, a student with one, a student with four; one column per prompt,
the same seed in each. Written to ``benchmarks/results/emoji.png``.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import fastgen
from fastgen.pictures.grids import pixels, save_picture

PROMPTS = (
    "a small red apple on a blue background",
    "a ghost on a purple background",
    "a large fox on green",
    "a penguin on yellow",
    "a police car on the left on white",
    "a large hamburger on red",
    "a cactus on a yellow background",
    "a rocket on black",
)
CELL, LABEL, TEXT, GAP = 96, 92, 13, 4


def picture(rows: dict[str, Tensor], prompts: Sequence[str]) -> Image.Image:
    """Images (N, 3, H, W) of each row beside its name, under the prompts."""
    font = ImageFont.load_default(TEXT)
    lines = [textwrap.wrap(prompt, 14) for prompt in prompts]
    top = (TEXT + 3) * max(map(len, lines)) + GAP
    size = (LABEL + (CELL + GAP) * len(prompts), top + (CELL + GAP) * len(rows))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for i, words in enumerate(lines):
        draw.multiline_text((LABEL + i * (CELL + GAP), 0), "\n".join(words), fill="black", font=font, spacing=3)
    for j, (name, images) in enumerate(rows.items()):
        y = top + j * (CELL + GAP)
        draw.multiline_text((0, y + CELL // 3), name, fill="black", font=font, spacing=3)
        for i, image in enumerate(pixels(images).numpy()):
            cell = Image.fromarray(image).resize((CELL, CELL), Image.Resampling.NEAREST)
            canvas.paste(cell, (LABEL + i * (CELL + GAP), y))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", required=True, metavar="CKPT", help="checkpoint of a student of one call")
    parser.add_argument("--four", required=True, metavar="CKPT", help="checkpoint of a student of four calls")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt; the next have the next")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "emoji.png")
    given = parser.parse_args()
    one, four = fastgen.load(given.one, teacher=True), fastgen.load(given.four)
    seeds = range(given.seed, given.seed + len(given.prompts))
    rows = {
        "teacher,\n50 calls": fastgen.sample(one, seeds, prompts=given.prompts, steps=50, role="teacher"),
        "teacher,\n1 call": fastgen.sample(one, seeds, prompts=given.prompts, steps=1, role="teacher"),
        "student,\n1 call": fastgen.sample(one, seeds, prompts=given.prompts),
        "student,\n4 calls": fastgen.sample(four, seeds, prompts=given.prompts),
    }
    print(save_picture(picture(rows, given.prompts), given.out))


if __name__ == "__main__":
    main()
