"""The page: one HTML file with its style, script and charts inside, and pictures of samples beside it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from fastgen import __version__
from fastgen.report import details, gallery, numbers, overview
from fastgen.report.html import section
from fastgen.report.run import Run
from fastgen.report.samples import Block
from fastgen.report.scalars import read_scalars
from fastgen.report.summary import finals
from fastgen.storage.files import ASSETS, write_text
from fastgen.storage.writing import write_atomically


def write_page(
    runs: Sequence[Run], out: Path, blocks: Mapping[str, Sequence[Block]], notices: Mapping[str, str]
) -> Path:
    """Write ``index.html``, and the pictures that it takes from runs.

    Args:
        runs: The runs, in the order of their colours.
        out: Folder of the page; samples lie in it already.
        blocks: Samples by the run's name, where there are any.
        notices: Why a run has no samples, by its name.
    """
    for run in runs:
        if not blocks.get(run.name) and run.grids:
            source = run.grids[-1]
            target = out / "grids" / f"{run.name.replace('/', '-')}.png"
            write_atomically(target, lambda temporary, source=source: shutil.copyfile(source, temporary))  # type: ignore[misc]
    return write_text(out / "index.html", page(runs, blocks, notices))


def page(runs: Sequence[Run], blocks: Mapping[str, Sequence[Block]], notices: Mapping[str, str]) -> str:
    """The HTML."""
    rows = {run.name: finals(run) for run in runs}
    pairs = list(enumerate(runs))
    groups = numbers.problems(runs)
    curves = {run.name: read_scalars(run.folder) for run in runs}
    parts = [
        ("overview", "Overview", "", overview.cards(pairs, rows)),
        (
            "samples",
            "Samples",
            "The same seeds, and the same conditions, from the teacher and from each student. Click one to see it "
            "large beside the teacher's; arrow keys move, Escape closes.",
            gallery.samples(pairs, blocks, notices),
        ),
        (
            "numbers",
            "Final numbers",
            "Small figures are ratios to the teacher. A fidelity number stands only where coverage was measured on the "
            "same samples: a collapsed sampler wins on fidelity alone.",
            numbers.per_problem(groups, lambda members: numbers.final_table(members, rows)),
        ),
        (
            "calls",
            "Quality against network calls",
            "",
            numbers.per_problem(groups, lambda members: numbers.quality_against_calls(members, rows)),
        ),
        (
            "curves",
            "Metrics during training",
            "Training time leaves out evaluation and pictures. Rest the pointer on a point for its numbers.",
            numbers.per_problem(groups, lambda members: numbers.metric_curves(members, rows)),
        ),
        ("cost", "Speed and memory", "", details.cost(pairs)),
        ("signals", "Training signals", "", details.signals(pairs, curves)),
        ("settings", "Differences in settings", "", details.settings(pairs)),
        ("health", "Events of the health monitor", "", details.events(pairs)),
        ("origins", "How the numbers were made", "", details.origins(pairs, rows)),
    ]
    links = "".join(f"<a href='#{anchor}'>{title}</a>" for anchor, title, _, body in parts if body)
    body = "".join(section(*part) for part in parts)
    title = " · ".join(run.name for run in runs)
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)} - fastgen report</title><link rel='icon' href='data:,'><style>{style}</style></head>"
        "<body data-x='updates'>"
        f"<header><p class='kicker'>fastgen report</p><h1>{escape(title)}</h1>"
        f"<nav aria-label='sections'>{links}</nav></header>"
        f"<main>{body}</main>"
        f"<footer>Made by fastgen {__version__} from {len(runs)} run{'s' if len(runs) != 1 else ''}; "
        "nothing on this page is loaded from elsewhere.</footer>"
        "<dialog id='large' aria-label='enlarged sample'><div class='bar'><p id='large-title'></p>"
        "<button type='button' id='close'>Close</button></div><div id='large-body'></div></dialog>"
        f"<script>{script}</script></body></html>\n"
    )
