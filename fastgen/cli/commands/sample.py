"""``fastgen sample``: a picture from a checkpoint alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fastgen.cli.commands.conditions import conditions_of, slices
from fastgen.cli.commands.loading import check_device, method_on
from fastgen.cli.commands.parser import LARGEST, MOST_STEPS, OptionParser, add_trust, integers, whole
from fastgen.errors import UserError
from fastgen.refusals import refuse_unwritable


def check_out(out: str, folder: bool) -> None:
    """Find out before any work whether samples can be written to ``--out``.

    Raises:
        UserError: If not, or if the suffix is that of no picture.
    """
    from PIL import Image

    refuse_unwritable(out, folder)
    suffix = Path(out).suffix.lower()
    Image.init()
    if not folder and suffix != ".safetensors" and Image.EXTENSION.get(suffix) not in Image.SAVE:
        raise UserError(f"'{suffix}' is no picture format; use .png, or a folder (no suffix).")


def sample(words: Sequence[str]) -> None:
    """Sample from a checkpoint and write one picture (or a folder of pictures).

    Raises:
        UserError: On bad options or an unusable checkpoint.
    """
    parser = OptionParser("fastgen sample", description=__doc__)
    parser.add_argument("--ckpt", required=True, help="checkpoint of 'fastgen fit'")
    parser.add_argument(
        "--out",
        default="samples.png",
        help="a .png grid or scatter plot (videos: .webp or .gif plays), or a folder for one file each",
    )
    parser.add_argument("--seeds", default="0-63", help="e.g. 0-63 or 1,5,9; one sample per seed")
    parser.add_argument("--steps", type=int, default=None, help="network calls per sample; default as trained")
    parser.add_argument("--role", default="average", help="average (EMA, default), student, teacher or an EMA's name")
    parser.add_argument("--labels", default=None, help="classes to cycle through, e.g. 0-9")
    parser.add_argument("--prompt", action="append", default=[], help="a prompt; may be repeated")
    parser.add_argument("--prompts", default=None, help="text file with one prompt per line, or the judge's own file")
    parser.add_argument(
        "--layout",
        choices=("plain", "geneval", "dpg", "vbench", "hpsv3", "vqascore"),
        default=None,
        help="write the folder --out as this judge's scripts read it, for all --prompts; goes on where it was stopped",
    )
    parser.add_argument("--per-prompt", "--per_prompt", type=int, default=None, help="pictures per prompt of a layout")
    parser.add_argument("--first-seed", "--first_seed", type=int, default=0, help="seed of a layout's first picture")
    parser.add_argument("--columns", type=int, default=None, help="columns of the grid")
    parser.add_argument("--batch-size", "--batch_size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_trust(parser)
    arguments = parser.parse_args(list(words))
    whole(batch_size=arguments.batch_size, columns=arguments.columns)
    whole(1, MOST_STEPS, steps=arguments.steps, per_prompt=arguments.per_prompt)
    whole(0, LARGEST, first_seed=arguments.first_seed)
    check_device(arguments.device)
    if arguments.layout:
        from fastgen.cli.commands.sample_layout import sample_layout

        return sample_layout(arguments)
    seeds = integers(arguments.seeds)
    check_out(arguments.out, folder=not Path(arguments.out).suffix)

    method = method_on(arguments.ckpt, arguments.device, arguments.role == "teacher", arguments.trust)
    condition = conditions_of(arguments, method.student, len(seeds))
    from fastgen.callbacks.bars import bar as progress

    rows = [slice(i, i + arguments.batch_size) for i in range(0, len(seeds), arguments.batch_size)]
    parts = [
        method.sample(seeds[row], slices(condition, row), arguments.steps, arguments.role).cpu()
        for row in progress(rows, desc="sampling", disable=len(rows) == 1)
    ]
    from fastgen.pictures.grids import save_samples

    written = save_samples(torch.cat(parts), Path(arguments.out), columns=arguments.columns, names=seeds)
    print(f"{len(seeds)} samples, {method.evaluations(arguments.role, arguments.steps)} network calls each: {written}")
