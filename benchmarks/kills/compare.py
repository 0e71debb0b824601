"""What two runs left: is it bit for bit the same?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from fastgen.checkpoints.reading import read_checkpoint
from fastgen.checkpoints.seals import OWN, refuse_damaged
from fastgen.storage.digests import digest_of

CLOCK = ("seconds", "time")
"""Ends the names of what a clock said, which is not part of a run's state."""


MEASURED = ("teacher_key", "teacher_rows")
"""What ``Evaluate`` knows of the teacher: a run that is resumed at its very end measures it before it saves. The rows
themselves are compared."""


def versions(folder: Path) -> list[Path]:
    """The numbered folders of a run, in order."""
    return sorted(folder.glob("run/version_*"), key=lambda path: int(path.name.split("_")[1]))


def latest(folder: Path, name: str) -> Path | None:
    """A file of the checkpoints' folder in the latest version that has it."""
    found = [path for version in versions(folder) if (path := version / "checkpoints" / name).exists()]
    return found[-1] if found else None


def timeless(value: Any) -> Any:
    """A copy of nested data without what clocks said, nor what was measured of the teacher."""
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if name not in MEASURED and not str(name).endswith(CLOCK)}
        return {name: timeless(part) for name, part in kept.items()}
    if isinstance(value, list | tuple):
        return [timeless(part) for part in value]
    return value


def measured(folder: Path) -> dict[str, Any]:
    """What evaluations found in a run's folders, by what they looked at."""
    rows = {}
    for version in versions(folder):
        if (path := version / "metrics.jsonl").exists():
            for row in map(json.loads, path.read_text().splitlines()):
                key = tuple(str(row.get(name)) for name in ("student_updates", "role", "steps", "nfe"))
                rows[" ".join(key)] = timeless(row)
    return rows


def damaged(folder: Path) -> Iterator[str]:
    """Files with a final name that are not whole."""
    for path in folder.glob("run/version_*/checkpoints/[!.]*.ckpt"):
        try:
            refuse_damaged(read_checkpoint(path), path)
        except Exception as error:
            yield str(error)


def leftovers(folder: Path) -> set[str]:
    """Hidden files in a run's folders."""
    return {str(path.relative_to(folder)) for path in folder.rglob(".*") if path.is_file()}


def differences(one: Path, other: Path) -> str:
    """Where the ends of two runs differ; empty if nowhere."""
    ends = [latest(folder, "last.ckpt") for folder in (one, other)]
    weights = [latest(folder, "student.safetensors") for folder in (one, other)]
    if None in ends or None in weights:
        return "there is no last checkpoint or no weights file"
    first, second = (torch.load(path, weights_only=True) for path in ends if path is not None)
    if wrong := first.keys() ^ second.keys():
        return f"{sorted(wrong)[0]} is in one only"
    for part in first:
        pair = [{**saved[OWN], "digests": 0} if part == OWN else saved[part] for saved in (first, second)]
        if digest_of(timeless(pair[0])) != digest_of(timeless(pair[1])):
            return f"{part} differs"
    tensors = [load_file(path) for path in weights if path is not None]
    if digest_of(tensors[0]) != digest_of(tensors[1]):
        return "student.safetensors differs"
    if measured(one) != measured(other):
        return "metrics.jsonl differs"
    return ""
