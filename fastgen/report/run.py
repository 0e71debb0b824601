"""A run folder, as far as it can be read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgen.configuration.masking import masked
from fastgen.errors import UserError
from fastgen.results.kinds import Kinds
from fastgen.results.records import read_json_lines
from fastgen.results.rows import is_student, kinds_of
from fastgen.storage.documents import read_json, read_yaml

MARKS = ("config.yaml", "metrics.jsonl", "throughput.json", "health.jsonl")
"""Files that make a folder a run; one is enough."""


@dataclass(frozen=True)
class Measurement:
    """One line of ``metrics.jsonl``.

    Attributes:
        student_updates: Updates behind the weights; for a teacher, when it was measured.
        training_seconds: Time of training, without evaluation and pictures.
        role: ``average``, ``student``, ``teacher``, ``real`` or an EMA's name.
        steps: As asked for; ``None`` is as trained (or the solver's own number).
        nfe: Network calls per sample.
        count: Number of samples.
        fingerprint: The extractor, what it was fed, and the reference if that is not the data.
        values: Numbers by metric.
        kinds: What they measure.
    """

    student_updates: int
    training_seconds: float | None
    role: str
    steps: int | None
    nfe: int | None
    count: int | None
    fingerprint: str
    values: Mapping[str, float]
    kinds: Kinds


@dataclass(frozen=True)
class Event:
    """One line of ``health.jsonl``."""

    student_updates: int
    kind: str
    sentence: str


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: Where it lies.
        name: A short name, different from those of the runs read with it.
        config: The resolved configuration.
        measurements: Lines of ``metrics.jsonl`` in order.
        events: Events of the health monitor in order.
        throughput: ``throughput.json``: rates, peak memory, device.
        grids: Pictures of samples in order of student updates.
        checkpoint: The latest checkpoint.
        problems: What is missing or cannot be read, one sentence each.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    events: tuple[Event, ...]
    throughput: Mapping[str, Any]
    grids: tuple[Path, ...]
    checkpoint: Path | None
    problems: tuple[str, ...]

    @property
    def method(self) -> str:
        """Class name of the method, e.g. ``SiD``; empty if unknown."""
        return str(part(self.config, "model").get("class_path", "")).split(".")[-1]

    @property
    def student_updates(self) -> int:
        """How far the run went, as far as its files tell."""
        measured = [m.student_updates for m in self.measurements if is_student(m.role)]
        return max([*measured, whole(self.throughput.get("student_updates")) or 0], default=0)


def number(value: Any) -> float | None:
    """A float, or ``None`` if ``value`` is no number that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON has longer whole numbers
        return None


def amount(value: Any) -> float | None:
    """A finite float that is not negative, as seconds and rates are, or ``None``."""
    found = number(value)
    return found if found is not None and math.isfinite(found) and found >= 0 else None


def whole(value: Any) -> int | None:
    """An int that is not negative, as every count is, or ``None`` if ``value`` is none or beyond all measure."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a configuration; empty if there is none."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Runs under names that tell them apart.

    Raises:
        UserError: If a folder is no run, or is given twice.
    """
    found = [find_run(folder) for folder in folders]
    if twice := next((path for i, path in enumerate(found) if path in found[:i]), None):
        raise UserError(f"'{twice}' is given twice; give each run once.")
    return [read_run(folder, name) for folder, name in zip(found, short_names(found), strict=True)]


def find_run(folder: str | os.PathLike[str]) -> Path:
    """The run folder: the one given, or the latest ``version_*`` of a training in it.

    Raises:
        UserError: If there is none.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"'{folder}' is no folder; give the folder of a run, e.g. runs/sid_digits/version_0.")
    versions = sorted((int(v[1]), p) for p in path.glob("version_*") if (v := re.fullmatch(r"version_(\d+)", p.name)))
    marked = [p for p in (path, *(p for _, p in reversed(versions))) if any((p / mark).is_file() for mark in MARKS)]
    for candidate in sorted(marked, key=lambda p: p != path and not is_training(p)):  # stable: trainings, latest first
        return candidate.resolve()
    raise UserError(
        f"'{folder}' is no run of fastgen, because it holds none of {', '.join(MARKS)}; give a folder that "
        "'fastgen fit' wrote, e.g. runs/sid_digits/version_0."
    )


def is_training(folder: Path) -> bool:
    """Whether a folder is of ``fit``, as far as one can see, and not of ``validate``, ``test`` or ``predict``.

    Those have options of their own in their configuration.
    """
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return re.search(r"^(verbose|return_predictions):", text, re.MULTILINE) is None


def short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest endings of the paths that differ; a lone ``version_0`` is not worth saying.

    ``runs/a/version_0`` and ``runs/b/version_0`` are ``a`` and ``b``; ``runs/a/version_0`` and ``runs/a/version_1`` are
    ``a/version_0`` and ``a/version_1``.
    """
    plain = [path.parent.name if path.name.startswith("version_") else path.name for path in folders]
    for depth in range(1, max((len(path.parts) for path in folders), default=1) + 1):
        names = plain if depth == 1 else ["/".join(path.parts[-depth:]) for path in folders]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in folders]


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read one run folder; what is missing is said in ``problems``."""
    problems: list[str] = []
    config = read_config(folder / "config.yaml", problems)
    lines, damaged = read_json_lines(folder / "metrics.jsonl")
    measurements = tuple(m for line in lines if (m := measurement(line)) is not None)
    if damaged or len(measurements) < len(lines):
        problems.append(f"{damaged + len(lines) - len(measurements)} lines of metrics.jsonl cannot be read.")
    elif not measurements:
        problems.append("There are no measurements (metrics.jsonl); add the Evaluate callback.")
    events, damaged = read_json_lines(folder / "health.jsonl")
    if damaged:
        problems.append(f"{damaged} lines of health.jsonl cannot be read.")
    return Run(
        folder=folder,
        name=name or short_names([folder])[0],
        config=config,
        measurements=measurements,
        events=tuple(
            Event(whole(e.get("student_updates")) or 0, str(e.get("kind", "")), str(e.get("sentence", "")))
            for e in events
        ),
        throughput=read_object(folder / "throughput.json", problems),
        grids=tuple(path for path in sorted((folder / "grids").glob("step_*.png")) if path.is_file()),
        checkpoint=latest_checkpoint(folder, config),
        problems=tuple(problems),
    )


def measurement(line: Mapping[str, Any]) -> Measurement | None:
    """A line of ``metrics.jsonl``, or ``None`` if it is none."""
    values, role = line.get("values"), line.get("role")
    if not isinstance(values, Mapping) or not isinstance(role, str):
        return None
    reference = line.get("reference")
    against = f" against {reference}" if isinstance(reference, str) and reference not in ("", "data") else ""
    return Measurement(
        student_updates=whole(line.get("student_updates")) or 0,
        training_seconds=amount(line.get("training_seconds")),
        role=role,
        steps=whole(line.get("steps")),
        nfe=whole(line.get("nfe")) or None,
        count=whole(line.get("count")),
        fingerprint=str(line.get("fingerprint", "")) + against,
        values={str(key): value for key, raw in values.items() if (value := number(raw)) is not None},
        kinds=kinds_of(line),
    )


def read_config(path: Path, problems: list[str]) -> dict[str, Any]:
    """The configuration without its secrets; empty, with a problem noted, if there is none."""
    if not path.exists():
        problems.append("There is no config.yaml.")
        return {}
    try:
        config = read_yaml(path)
    except UserError:
        problems.append("config.yaml is not valid YAML.")
        return {}
    if not isinstance(config, dict):
        problems.append("config.yaml holds no configuration.")
        return {}
    plain: dict[str, Any] = masked(config)  # a config that a user wrote may hold keys, and pages are handed on
    return plain


def read_object(path: Path, problems: list[str]) -> dict[str, Any]:
    """A JSON object; empty, with a problem noted, if there is none."""
    if not path.exists():
        problems.append(
            f"There is no {path.name}: the run did not end by itself, or lacks the callback that writes it."
        )
        return {}
    try:
        value = read_json(path, "")
    except UserError:
        value = None
    if not isinstance(value, dict):
        problems.append(f"{path.name} cannot be read.")
        return {}
    return value


def latest_checkpoint(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """``last.ckpt``, or else the step file with the largest number, where the Checkpoint callback wrote."""
    callbacks = part(config, "trainer").get("callbacks")
    places = [folder / "checkpoints"]
    for callback in callbacks if isinstance(callbacks, list) else []:
        if isinstance(callback, Mapping) and str(callback.get("class_path", "")).endswith("Checkpoint"):
            dirpath = part(callback, "init_args").get("dirpath")
            if dirpath and isinstance(dirpath, str):
                places.append(Path(os.path.expanduser(dirpath.replace("<log_dir>", str(folder)))))
    for place in places:
        for path in (place / "last.ckpt", *sorted(place.glob("step=*.ckpt"), reverse=True)):
            if path.is_file():
                return path
    return None
