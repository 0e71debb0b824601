"""Samples: the same seed from the teacher and from each student."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from math import atan2, isfinite, pi
from typing import Any

from fastgen.report.chart import cloud
from fastgen.report.formatting import calls
from fastgen.report.html import Runs, swatch
from fastgen.report.run import Run
from fastgen.report.samples import Block


def samples(runs: Runs, blocks: Mapping[str, Sequence[Block]], notices: Mapping[str, str]) -> str:
    """Teacher above students, the same seed in each column; runs with the same teacher's samples stand together."""
    groups: dict[Any, list[tuple[int, Run, Block]]] = defaultdict(list)
    for i, run in runs:
        found = blocks.get(run.name, ())
        teacher = next((block for block in found if block.role == "teacher"), None)
        key = (teacher.digest, teacher.seeds) if teacher is not None else run.name
        for block in found:
            if block.role != "teacher" or not groups[key]:
                groups[key].append((i, run, block))
    parts = [
        (clouds if group[0][2].points else matrix)(number, group)
        for number, group in enumerate(groups.values())
        if group
    ]
    for i, run in runs:
        if run.name in notices:
            parts.append(f"<p class='notice'>{escape(notices[run.name])}</p>")
        if not blocks.get(run.name) and run.grids:
            parts.append(grid_picture(len(groups) + i, i, run))
    return "".join(parts)


def who(run: Run, block: Block) -> str:
    """Who made the samples of a block."""
    return (
        f"teacher, {calls(block.nfe)}" if block.role == "teacher" else f"{run.name} ({block.role}), {calls(block.nfe)}"
    )


def opener(group: int, row: int, seed: str, told: str, condition: str, inside: str, teacher: bool) -> str:
    """A sample that can be enlarged."""
    title = ", ".join(filter(None, [told, f"seed {seed}" if seed else "", condition]))
    return (
        f"<button type='button' class='sample' data-group='{group}' data-row='{row}' data-seed='{escape(seed)}'"
        f" data-who='{escape(told, quote=True)}' data-condition='{escape(condition, quote=True)}'"
        f"{' data-teacher' if teacher else ''} title='{escape(title, quote=True)}'>{inside}</button>"
    )


def matrix(group: int, entries: Sequence[tuple[int, Run, Block]]) -> str:
    """Images: a row per block, a column per seed."""
    first = entries[0][2]
    head = "".join(
        f"<th scope='col'>{seed}{f'<small>{escape(words)}</small>' if 0 < len(words) < 12 else ''}</th>"
        for seed, words in zip(first.seeds, first.conditions, strict=True)
    )
    lines = [f"<tr><th scope='row' class='corner'>seed</th>{head}</tr>"]
    for row, (i, run, block) in enumerate(entries):
        told, teacher = who(run, block), block.role == "teacher"
        cells = []
        for seed, words, file in zip(block.seeds, block.conditions, block.files, strict=True):
            alt = f"{told}, seed {seed}" + (f", {words}" if words else "")
            place = f"src='{escape(file, quote=True)}' alt='{escape(alt, quote=True)}'"
            image = f"<img {place} class='{'tiny' if block.width < 160 else 'wide'}' loading='lazy'>"
            cells.append(f"<td>{opener(group, row, str(seed), told, words, image, teacher)}</td>")
        name = "teacher" if teacher else escape(run.name)
        role = "" if teacher or block.role == "average" else f"{escape(block.role)}, "
        mark = swatch(-1 if teacher else i)
        lines.append(
            f"<tr><th scope='row'>{mark}{name}<small>{role}{calls(block.nfe)}</small></th>{''.join(cells)}</tr>"
        )
    return f"<div class='scroll'><table class='samples'>{''.join(lines)}</table></div>"


def clouds(group: int, entries: Sequence[tuple[int, Run, Block]]) -> str:
    """Points: a panel per block on the same axes; a seed has the colour of its direction in the first panel."""
    points = [p for _, _, block in entries for p in block.points]
    sizes = sorted(max(abs(x), abs(y)) for x, y in points if isfinite(x) and isfinite(y)) or [1.0]
    limit = 1.15 * sizes[int(0.998 * (len(sizes) - 1))]
    hues = [int((atan2(y, x) / (2 * pi) + 1) * 12) % 12 for x, y in entries[0][2].points]
    panels = []
    for row, (i, run, block) in enumerate(entries):
        told, teacher = who(run, block), block.role == "teacher"
        picture = cloud(block.points, hues, limit, f"{len(block.points)} points of {told}")
        words = f"{len(block.points)} seeds"
        mark = swatch(-1 if teacher else i)
        button = opener(group, row, "", told, words, picture, teacher)
        panels.append(f"<figure>{button}<figcaption>{mark}{escape(told)}</figcaption></figure>")
    seeds = entries[0][2].seeds
    note = f"{len(seeds)} seeds. A point has the colour of the direction that {who(*entries[0][1:])}, gave its seed."
    return f"<div class='clouds'>{''.join(panels)}</div><p class='lead'>{escape(note)}</p>"


def grid_picture(group: int, colour: int, run: Run) -> str:
    """The latest picture that training drew."""
    file = f"grids/{run.name.replace('/', '-')}.png"
    told = f"{run.name}, picture of training at {run.grids[-1].stem.replace('_', ' ')}"
    image = f"<img src='{escape(file, quote=True)}' alt='{escape(told, quote=True)}'>"
    return (
        f"<figure class='grid'>{opener(group, 0, '', told, '', image, False)}"
        f"<figcaption>{swatch(colour)}{escape(told)}: teacher above student, the same seeds in each block</figcaption>"
        "</figure>"
    )
