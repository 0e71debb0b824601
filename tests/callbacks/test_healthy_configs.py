"""Health has nothing to say about the shipped configs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from command_line import ROOT, checkpoint, fastgen, last, load, trainer, write


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sid_mixture", "ect_mixture"])
def test_no_false_alarm(name: str, tmp_path: Path):
    config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    health = {"class_path": "Health", "init_args": {"every_n_steps": 25, "patience": 75}}
    config["trainer"] = trainer(tmp_path, 150, health, checkpoint(0))
    assert fastgen("fit", "--config", write(tmp_path / "config.yaml", config | {"threads": 1})) == 0
    (state,) = [state for name, state in load(last(tmp_path))["callbacks"].items() if "Health" in name]
    assert state["events"] == {}
    assert not list(tmp_path.rglob("health.jsonl"))
