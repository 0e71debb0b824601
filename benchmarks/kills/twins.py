"""Small twins of the shipped configs: a few updates in which every part of a method takes its turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).parent.parent.parent / "configs"
HERE = {p.stem: p for p in sorted(CONFIGS.glob("*.yaml")) if "pretrained:" not in p.read_text(encoding="utf-8")}
"""The configs whose networks need no download, by name."""
STEPS, EVERY = 4, 2
"""Student updates of a twin, and those between its checkpoints and evaluations."""
SMALL = {
    "batch_size": 8,
    "count": 16,
    "every_n_steps": EVERY,
    "exact_count": 64,
    "fine_steps": 10,
    "max_steps": STEPS,
    "mixing_updates": 2,
    "stage_updates": 1,
    "start": 1,
    "warmup": 1,
}
"""Arguments that make a run large, or a part of it late, with their values in a twin."""
LEFT_OUT = ("SampleGrid",)
"""Callbacks without a state, which only take time."""


def class_of(entry: dict[str, Any]) -> str:
    """The name of an entry's class, without its module."""
    return str(entry["class_path"]).rsplit(".", 1)[-1]


def shrunk(value: Any) -> Any:
    """A copy of nested data with the values of ``SMALL``, wherever their names stand."""
    if isinstance(value, dict):
        return {
            name: SMALL[name] if name in SMALL and isinstance(part, int) else shrunk(part)
            for name, part in value.items()
        }
    return [shrunk(part) for part in value] if isinstance(value, list) else value


def needs_pairs(config: Path) -> bool:
    """Whether a config learns from pairs that ``fastgen pairs`` makes."""
    return class_of(yaml.safe_load(config.read_text(encoding="utf-8"))["data"]) == "Pairs"


def twin(config: Path, folder: Path, pairs: Path) -> dict[str, Any]:
    """The small twin of a config that runs in ``folder``."""
    given = shrunk(yaml.safe_load(config.read_text(encoding="utf-8")))
    given["threads"] = 1
    given["data"].setdefault("init_args", {}).setdefault("batch_size", SMALL["batch_size"])
    if class_of(given["data"]) == "Pairs":
        given["data"]["init_args"] |= {"path": str(pairs), "held_out_count": 16}
    trainer = given["trainer"]
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer["callbacks"] = [entry for entry in trainer["callbacks"] if class_of(entry) not in LEFT_OUT]
    trainer["logger"]["init_args"] = {"save_dir": str(folder), "name": "run"}
    return given
