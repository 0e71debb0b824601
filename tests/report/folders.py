"""Run folders written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def row(role: str = "average", nfe: int = 1, updates: int = 100, **values: float) -> dict[str, Any]:
    """A line of ``metrics.jsonl``."""
    return {
        "student_updates": updates,
        "training_seconds": updates / 10,
        "evaluation_seconds": 1.0,
        "role": role,
        "steps": None,
        "nfe": nfe,
        "count": 500,
        "seed": 10_000,
        "fingerprint": "features/sha256:0123",
        "values": values,
        "ratio_to_teacher": {},
    }


ROWS = [
    row("teacher", 35, 50, frechet=2.0, recall=0.8, frechet_floor=0.5),
    row("teacher", 1, 50, frechet=30.0, recall=0.01),
    row("average", 1, 50, frechet=6.0, recall=0.5),
    row("average", 1, 100, frechet=3.0, recall=0.6),
]
CONFIG = """
trainer:
  max_steps: 100
  callbacks:
    - {class_path: fastgen.callbacks.Health, init_args: {every_n_steps: 50}}
model:
  class_path: fastgen.methods.SiD
  init_args: {alpha: 1.0}
"""


def run_folder(folder: Path, rows: list[dict[str, Any]] | None = None, config: str = CONFIG) -> Path:
    """A folder as ``fastgen fit`` leaves it, without checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    lines = [json.dumps(line) + "\n" for line in (ROWS if rows is None else rows)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    speed = {"student_updates": 100, "training_seconds": 12.5, "samples_per_second": 1024.0}
    more = {"student_updates_per_second": 8.0, "peak_memory_gib": 1.5, "device": "cpu", "processes": 1}
    (folder / "throughput.json").write_text(json.dumps(speed | more))
    event = {"student_updates": 50, "kind": "collapse", "sentence": "the samples <b>have lost</b> their variety"}
    (folder / "health.jsonl").write_text(json.dumps(event) + "\n" + json.dumps(event | {"student_updates": 100}) + "\n")
    return folder
