"""A run folder whose files are damaged still gets its page and its place in tables; what is wrong is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import ROWS, run_folder

from fastgen.report.page import page
from fastgen.report.run import read_run
from fastgen.report.summary import as_json, finals
from fastgen.report.table import comparison

DEEP = "[" * 100_000
HUGE = "1" + "0" * 400


def row(**changes: Any) -> Callable[[Path], Any]:
    """Adds a line of measurements with changes."""
    text = json.dumps(ROWS[-1] | {"student_updates": 200} | changes)
    return lambda run: (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + text + "\n")


def speed(**changes: Any) -> Callable[[Path], Any]:
    return lambda run: (run / "throughput.json").write_text(
        json.dumps(json.loads((run / "throughput.json").read_text()) | changes)
    )


def text(name: str, content: str | bytes) -> Callable[[Path], Any]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda run: (run / name).write_bytes(data)


def folder(name: str) -> Callable[[Path], Any]:
    def make(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir(parents=True)

    return make


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "config deep": text("config.yaml", "a: " + DEEP),
    "config refers to itself": text("config.yaml", "a: &a [*a]\n"),
    "config latin-1": text("config.yaml", "a: \xe9".encode("latin-1")),
    "config list": text("config.yaml", "[1, 2]"),
    "config sections of other kinds": text("config.yaml", "trainer: x\nmodel: [1]\ndata: 3\n"),
    "config dirpath int": text(
        "config.yaml", "trainer: {callbacks: [{class_path: Checkpoint, init_args: {dirpath: 3}}]}"
    ),
    "config init_args text": text("config.yaml", "trainer: {callbacks: [{class_path: Checkpoint, init_args: x}]}"),
    "config callbacks number": text("config.yaml", "trainer: {callbacks: 3}"),
    "config folder": folder("config.yaml"),
    "metrics calls negative": row(nfe=-4),
    "metrics calls zero": row(nfe=0),
    "metrics calls huge": lambda run: (
        row(nfe=0)(run)
        or text("metrics.jsonl", f'{{"role": "average", "nfe": {HUGE}, "values": {{"frechet": {HUGE}}}}}')(run)
    ),
    "metrics seconds NaN": row(training_seconds=float("nan")),
    "metrics seconds infinite": row(training_seconds=float("inf")),
    "metrics updates negative": row(student_updates=-3),
    "metrics values NaN": row(values={"frechet": float("nan"), "recall": float("inf")}),
    "metrics values text": row(values={"frechet": "x", "recall": None}),
    "metrics deep": text("metrics.jsonl", '{"role": ' + DEEP),
    "metrics bytes": text("metrics.jsonl", bytes(range(256))),
    "metrics folder": folder("metrics.jsonl"),
    "throughput NaN": speed(training_seconds=float("nan"), samples_per_second=float("inf"), student_updates=-1),
    "throughput other kinds": speed(training_seconds="x", samples_per_second=[], device={}, processes="2"),
    "throughput updates huge": text("throughput.json", f'{{"student_updates": {HUGE}}}'),
    "throughput deep": text("throughput.json", DEEP),
    "throughput list": text("throughput.json", "[]"),
    "throughput folder": folder("throughput.json"),
    "health deep": text("health.jsonl", DEEP),
    "health of other kinds": text("health.jsonl", '{"student_updates": "x", "kind": [], "sentence": 3}\n[]\n'),
    "grid is a folder": folder("grids/step_000100.png"),
    "curves of other kinds": text("metrics.csv", "step,loss\n1,x\n,3\n4\n\x00\n"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_page_and_a_table_are_made(tmp_path: Path, name: str) -> None:
    run = run_folder(tmp_path / "run")
    DAMAGE[name](run)
    found = read_run(run)
    assert "fastgen report" in page([found], {}, {})
    assert comparison([found], 80)
    json.dumps(as_json([found]))
    assert all(final.nfe is None or final.nfe > 0 for final in finals(found))


def test_what_is_damaged_is_said(tmp_path: Path) -> None:
    for name, said in (
        ("config refers to itself", "config.yaml is not valid YAML"),
        ("config list", "config.yaml holds no configuration"),
        ("metrics deep", "1 lines of metrics.jsonl cannot be read"),
        ("throughput deep", "throughput.json cannot be read"),
        ("health deep", "1 lines of health.jsonl cannot be read"),
    ):
        run = run_folder(tmp_path / name)
        DAMAGE[name](run)
        assert any(said in problem for problem in read_run(run).problems), name
