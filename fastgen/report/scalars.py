"""Numbers that a run's logger kept: losses, gradient norms, throughput over time."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from pathlib import Path

Curve = list[tuple[float, float]]
"""(student updates, value) in order."""


def read_scalars(folder: Path) -> dict[str, Curve]:
    """Curves by name from TensorBoard's event files, or else from the CSV logger's ``metrics.csv``; else none."""
    found = from_events(folder) or from_csv(folder / "metrics.csv")
    return {
        name: sorted({x: y for x, y in points if math.isfinite(y)}.items())
        for name, points in found.items()
        if name not in ("step", "epoch")
    }


def from_events(folder: Path) -> dict[str, Curve]:
    """Curves of TensorBoard's event files; none if there are no files, they are damaged, or TensorBoard is missing."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    if not files:
        return {}
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        return {}
    curves: dict[str, Curve] = defaultdict(list)
    for file in files:
        try:
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.metadata.plugin_data.plugin_name == "scalars":
                        curves[value.tag].append((float(event.step), float(make_ndarray(value.tensor).item())))
        except Exception:  # a damaged file ends early, in one of several libraries' ways; what was read stays
            continue
    return dict(curves)


def from_csv(path: Path) -> dict[str, Curve]:
    """Curves of Lightning's CSV logger; none if there is no file."""
    if not path.is_file():
        return {}
    curves: dict[str, Curve] = defaultdict(list)
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                try:
                    curves[str(name)].append((float(row["step"]), float(text)))
                except (KeyError, TypeError, ValueError):
                    continue
    return dict(curves)


def thinned(points: Curve, at_most: int = 240) -> Curve:
    """At most so many points, each the mean of its neighbours; the last one stays."""
    if len(points) <= at_most:
        return points
    size = math.ceil(len(points) / (at_most - 1))
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
    return [*means[:-1], points[-1]]
