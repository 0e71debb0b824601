"""``fastgen report``: a page on which a person sees teacher and students side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from fastgen.cli.commands.parser import MOST_STEPS, OptionParser, add_trust, integers, whole
from fastgen.errors import UserError
from fastgen.refusals import refuse_unwritable
from fastgen.report.page import write_page
from fastgen.report.run import read_runs
from fastgen.report.samples import Block, Wish, samples_of


def report(words: Sequence[str]) -> None:
    """Write a self-contained static page: samples of equal seeds, curves, cost, settings, events.

    Samples are made from each run's last checkpoint and kept in the page's folder, so that a second call with the same
    checkpoints makes none. A run that cannot be sampled from shows the last picture of its training instead.

    Raises:
        UserError: If a folder is no run, or an option is bad.
    """
    parser = OptionParser(
        "fastgen report", description="A static page on which teacher and students stand side by side."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, e.g. runs/sid_digits/version_0")
    parser.add_argument("--out", default="report", help="folder of the page; open index.html in it")
    parser.add_argument("--no-samples", "--no_samples", action="store_true", help="only the pictures of training")
    parser.add_argument("--seeds", default=None, help="e.g. 0-15 or 1,5,9; default 16 images or 512 points")
    parser.add_argument("--steps", default=None, help="the students' network calls, e.g. 1,2,4; default as measured")
    parser.add_argument("--role", default="average", help="average (EMA, default), student or an EMA's name")
    parser.add_argument("--prompts", default=None, help="file with prompts; default those of the run")
    parser.add_argument("--batch-size", "--batch_size", type=int, default=64)
    parser.add_argument("--device", default=None, help="where to sample; default a GPU if there is one")
    add_trust(parser)
    arguments = parser.parse_args(list(words))
    whole(batch_size=arguments.batch_size)
    steps = integers(arguments.steps) if arguments.steps is not None else []
    for step in steps:
        whole(1, MOST_STEPS, steps=step)
    if arguments.prompts is not None and not Path(arguments.prompts).is_file():
        raise UserError(f"--prompts '{arguments.prompts}' is no file; give a file with prompts.")
    out = refuse_unwritable(arguments.out, folder=True)
    wish = Wish(
        seeds=tuple(dict.fromkeys(integers(arguments.seeds))) if arguments.seeds is not None else None,
        steps=tuple(dict.fromkeys(steps)),
        role=arguments.role,
        prompts=arguments.prompts,
        device=arguments.device,
        batch_size=arguments.batch_size,
        trust=tuple(arguments.trust),
    )
    runs = read_runs(arguments.runs)
    blocks: dict[str, list[Block]] = {}
    notices: dict[str, str] = {}
    for run in () if arguments.no_samples else runs:
        try:
            blocks[run.name] = samples_of(run, out, wish)
        except UserError as error:
            notices[run.name] = f"{run.name} was not sampled from: {error}"
            print(f"fastgen: {notices[run.name]}", file=sys.stderr)
    written = write_page(runs, out, blocks, notices)
    print(f"{len(runs)} run{'s' if len(runs) != 1 else ''}: {written}")
