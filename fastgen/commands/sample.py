"""``fastgen sample``: a picture from a checkpoint alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from fastgen.checkpoints import method_from_checkpoint
from fastgen.errors import UserError
from fastgen.files import resolve
from fastgen.methods import Distiller


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"fastgen sample: {message}.")


def integers(text: str) -> list[int]:
    """``0-63`` or ``1,5,9-12`` as a list.

    Raises:
        UserError: If the text is something else.
    """
    numbers: list[int] = []
    try:
        for piece in text.split(","):
            first, _, last = piece.partition("-")
            numbers.extend(range(int(first), int(last or first) + 1))
    except ValueError as error:
        raise UserError(f"'{text}' is no list of numbers; write e.g. 0-63 or 1,5,9.") from error
    if not numbers:
        raise UserError(f"'{text}' names no number; write e.g. 0-63.")
    return numbers


def conditions(method: Distiller, count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One condition per sample, cycling through what the user gave."""
    student = method.student
    if student.takes_prompts:
        prompts = list(arguments.prompt)
        if arguments.prompts:
            lines = resolve(arguments.prompts).read_text(encoding="utf-8").splitlines()
            prompts += [line.strip() for line in lines if line.strip()]
        if not prompts:
            raise UserError("This checkpoint makes pictures from text; give --prompt TEXT or --prompts FILE.")
        return {"prompt": [prompts[i % len(prompts)] for i in range(count)]}
    if arguments.prompt or arguments.prompts:
        raise UserError("This checkpoint takes no prompts; leave --prompt and --prompts out.")
    if not student.num_classes:
        return {}
    labels = integers(arguments.labels) if arguments.labels else list(range(student.num_classes))
    if max(labels) >= student.num_classes:
        raise UserError(f"--labels must be below {student.num_classes}, the number of classes, got {max(labels)}.")
    return {"label": torch.tensor([labels[i % len(labels)] for i in range(count)])}


def slices(condition: dict[str, Any], rows: slice) -> dict[str, Any]:
    """The condition of some samples."""
    return {name: value[rows] for name, value in condition.items()}


def sample(words: Sequence[str]) -> None:
    """Sample from a checkpoint and write one picture (or a folder of pictures).

    Raises:
        UserError: On bad options or an unusable checkpoint.
    """
    parser = _Parser("fastgen sample", description=__doc__)
    parser.add_argument("--ckpt", required=True, help="checkpoint of 'fastgen fit'")
    parser.add_argument(
        "--out", default="samples.png", help="a .png grid or scatter plot, or a folder for one file each"
    )
    parser.add_argument("--seeds", default="0-63", help="e.g. 0-63 or 1,5,9; one sample per seed")
    parser.add_argument("--steps", type=int, default=None, help="network calls per sample; default as trained")
    parser.add_argument("--role", default="average", help="average (EMA, default), student, teacher or an EMA's name")
    parser.add_argument("--labels", default=None, help="classes to cycle through, e.g. 0-9")
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; may be repeated")
    parser.add_argument("--prompts", default=None, help="text file with one prompt per line")
    parser.add_argument("--columns", type=int, default=None, help="columns of the grid")
    parser.add_argument("--batch-size", "--batch_size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(list(words))
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {arguments.batch_size}.")
    seeds = integers(arguments.seeds)

    method = method_from_checkpoint(arguments.ckpt, with_teacher=arguments.role == "teacher")
    try:
        method.to(arguments.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {arguments.device} cannot be used: {str(error).splitlines()[0]}") from error
    condition = conditions(method, len(seeds), arguments)
    from tqdm import tqdm

    rows = [slice(i, i + arguments.batch_size) for i in range(0, len(seeds), arguments.batch_size)]
    parts = [
        method.sample(seeds[row], slices(condition, row), arguments.steps, arguments.role).cpu()
        for row in tqdm(rows, desc="sampling", disable=len(rows) == 1)
    ]
    from fastgen.pictures import save_samples

    written = save_samples(torch.cat(parts), Path(arguments.out), columns=arguments.columns, names=seeds)
    print(f"{len(seeds)} samples, {method.evaluations(arguments.role, arguments.steps)} network calls each: {written}")
