"""The folders of each judge.

Names and metadata were read in the judges' repositories (djghosh13/geneval, TencentQQGYLab/ELLA, Vchitect/VBench,
linzhiqiu/t2v_metrics), of MizzenAI/HPSv3 in a copy of its ``evaluate/benchmark.py``.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastgen.errors import UserError
from fastgen.layouts.items import Item, dpg_items, geneval_items, numbered
from fastgen.storage.files import write_json, write_text
from fastgen.storage.writing import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image


def save(picture: Image, path: Path) -> None:
    """Write a PNG atomically."""
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"), durable=False)


class Layout(ABC):
    """Where pictures go.

    Attributes:
        per_prompt: Pictures per prompt that the judge's protocol asks for.
        next_step: What to run then; ``{out}`` is the folder.
    """

    per_prompt: int = 1
    next_step: str = ""

    def items(self, path: str) -> list[Item]:
        """The prompts of a file."""
        return numbered(path)

    def check(self, items: Sequence[Item], per_prompt: int) -> None:
        """Raise a :class:`UserError` if the judge could not read the result."""
        return

    @abstractmethod
    def file(self, out: Path, item: Item, k: int) -> Path:
        """Picture ``k`` of an item."""

    def missing(self, out: Path, item: Item, per_prompt: int) -> list[int]:
        """The pictures of an item that are still to be made."""
        return [k for k in range(per_prompt) if not self.file(out, item, k).exists()]

    def write(self, out: Path, item: Item, pictures: dict[int, Image]) -> None:
        """Write pictures of an item by their numbers; those of :meth:`missing` are all given at once."""
        for k, picture in pictures.items():
            save(picture, self.file(out, item, k))

    def finish(self, out: Path, items: Sequence[Item], per_prompt: int) -> None:
        """Write what names all pictures, when all are there."""
        return


class Plain(Layout):
    """``000000.png`` and ``metadata.jsonl`` with ``file_name`` and ``text`` (the image folders of HF datasets)."""

    def file(self, out: Path, item: Item, k: int) -> Path:
        return out / f"{item.name}-{k:04d}.png"

    def finish(self, out: Path, items: Sequence[Item], per_prompt: int) -> None:
        rows = [
            {"file_name": self.file(out, item, k).name, "text": item.prompt}
            for item in items
            for k in range(per_prompt)
        ]
        write_text(out / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


class GenEval(Layout):
    """``00000/metadata.jsonl`` and ``00000/samples/0000.png`` (Ghosh et al. 2023, arXiv 2310.11513).

    ``metadata.jsonl`` is the line of ``evaluation_metadata.jsonl``. The script reads every folder whose name is a
    number and every ``samples/<digits>.png`` in it.
    """

    per_prompt = 4
    next_step = "python evaluation/evaluate_images.py {out} --outfile results.jsonl --model-path OBJECT_DETECTOR_FOLDER"

    def items(self, path: str) -> list[Item]:
        return geneval_items(path)

    def file(self, out: Path, item: Item, k: int) -> Path:
        return out / item.name / "samples" / f"{k:04d}.png"

    def write(self, out: Path, item: Item, pictures: dict[int, Image]) -> None:
        write_text(out / item.name / "metadata.jsonl", item.record + "\n")
        super().write(out, item, pictures)


class DPG(Layout):
    """``<item id>.png``: the four pictures of a prompt as a 2x2 grid without gaps (Hu et al. 2024, arXiv 2403.05135).

    The script cuts squares of ``--resolution`` from the top left, and takes every file of the folder for a grid.
    """

    per_prompt = 4
    next_step = "PIC_NUM={per_prompt} bash dpg_bench/dist_eval.sh {out} SIDE_OF_ONE_PICTURE_IN_PIXELS"

    def items(self, path: str) -> list[Item]:
        return dpg_items(path)

    def check(self, items: Sequence[Item], per_prompt: int) -> None:
        if not 1 <= per_prompt <= 4:
            raise UserError(f"DPG-Bench reads 1 to 4 pictures per prompt, not {per_prompt}; give --per-prompt 4.")

    def file(self, out: Path, item: Item, k: int) -> Path:
        return out / f"{item.name}.png"

    def write(self, out: Path, item: Item, pictures: dict[int, Image]) -> None:
        from PIL import Image

        first = pictures[0]
        if first.width != first.height:
            raise UserError(
                f"DPG-Bench cuts squares, but the pictures are {first.width} x {first.height} pixels; sample from a "
                "student of square ones."
            )
        side = first.width
        columns, rows = (1, 1) if len(pictures) == 1 else (2, 1) if len(pictures) == 2 else (2, 2)
        grid = Image.new("RGB", (columns * side, rows * side))
        for k, picture in pictures.items():
            grid.paste(picture, ((k % 2) * side, (k // 2) * side))
        save(grid, self.file(out, item, 0))


class VBench(Layout):
    """``<prompt>-<index>.png`` (Huang et al. 2023, arXiv 2311.17982).

    Pictures only: VBench judges videos, ``<prompt>-0.mp4``; its standard mode takes the suffix of the first file of
    the folder and can read one frame from ``.png``, which serves its dimensions of single frames (aesthetic quality,
    imaging quality, object class, multiple objects, color, spatial relationship, scene). Custom mode wants ``.mp4`` or
    ``.gif``. Nothing else may lie in the folder.
    """

    per_prompt = 5
    next_step = "vbench evaluate --videos_path {out} --dimension aesthetic_quality"

    def items(self, path: str) -> list[Item]:
        # The dimensions share prompts, and the files of equal prompts would be the same.
        return list({item.prompt: item for item in super().items(path)}.values())

    def check(self, items: Sequence[Item], per_prompt: int) -> None:
        for item in items:
            if "/" in item.prompt or "\0" in item.prompt or item.prompt.startswith("."):
                raise UserError(
                    f"VBench names files after prompts, which '{item.prompt}' does not allow; leave '/' out."
                )
            if len(item.prompt.encode()) > 230:
                raise UserError(
                    f"VBench names files after prompts, and '{item.prompt[:40]}...' is too long; shorten it."
                )

    def file(self, out: Path, item: Item, k: int) -> Path:
        return out / f"{item.prompt}-{k}.png"


class HPSv3(Layout):
    """``00000-0000.png`` with its prompt in ``00000-0000.txt`` (Ma et al. 2025, arXiv 2508.03789).

    ``evaluate/benchmark.py`` takes every ``.png`` below the folder and the text file of its name.
    """

    next_step = "python evaluate/benchmark.py --mode hpsv3 --image_folders {out} --output_path hpsv3.json"

    def file(self, out: Path, item: Item, k: int) -> Path:
        return out / f"{item.name}-{k:04d}.png"

    def write(self, out: Path, item: Item, pictures: dict[int, Image]) -> None:
        for k in pictures:
            write_text(self.file(out, item, k).with_suffix(".txt"), item.prompt)
        super().write(out, item, pictures)


class VQAScore(Layout):
    """``images/00000-0000.png`` and ``dataset.json`` (Lin et al. 2024, arXiv 2404.01291).

    ``dataset.json`` is the list of ``{"images": [...], "texts": [prompt]}`` that ``batch_forward(dataset=...)`` takes;
    images are relative to the folder, so run it there.
    """

    next_step = "in {out}: VQAScore(...).batch_forward(dataset=json.load(open('dataset.json'))), saved by torch.save"

    def file(self, out: Path, item: Item, k: int) -> Path:
        return out / "images" / f"{item.name}-{k:04d}.png"

    def finish(self, out: Path, items: Sequence[Item], per_prompt: int) -> None:
        entries = [
            {
                "images": [self.file(out, item, k).relative_to(out).as_posix() for k in range(per_prompt)],
                "texts": [item.prompt],
            }
            for item in items
        ]
        write_json(out / "dataset.json", entries)


LAYOUTS: dict[str, Layout] = {
    "plain": Plain(),
    "geneval": GenEval(),
    "dpg": DPG(),
    "vbench": VBench(),
    "hpsv3": HPSv3(),
    "vqascore": VQAScore(),
}
