"""The benchmark of killed runs: it ends a run in every way, resumes it, and sees what differs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import ROOT, environment, fastgen, load, mixture, write

from benchmarks.kills.compare import damaged, differences, latest, timeless
from benchmarks.kills.twins import HERE, shrunk
from fastgen import methods

ABSTRACT = {
    "SeverallyGuided",
    "MCM",  # of videos alone
    "BufferedForcing",
    "PerceptualConsistency",
    "Distiller",
    "ScoreDistiller",
    "FlowMapDistiller",
    "SolverDistiller",
    "TrajectoryDistiller",
}


def test_every_method_is_killed():
    named = "".join(path.read_text(encoding="utf-8") for path in HERE.values())
    for name in set(methods.__all__) - ABSTRACT:
        assert f"class_path: {name}\n" in named, name


def test_a_twin_is_small_wherever_a_number_stands():
    config = {"a": [{"count": 5000, "batch_size": 512}], "start": 500, "count": None, "other": 500}
    assert shrunk(config) == {"a": [{"count": 16, "batch_size": 8}], "start": 1, "count": None, "other": 500}
    assert timeless({"training_seconds": 1.0, "rows": [{"x": 1, "evaluation_seconds": 2}]}) == {"rows": [{"x": 1}]}


def test_differences_are_seen(tmp_path: Path):
    one, other = tmp_path / "one", tmp_path / "other"
    assert fastgen("fit", "--config", write(tmp_path / "a.yaml", mixture(one, steps=1, batch_size=4))) == 0
    shutil.copytree(one, other)
    assert differences(one, other) == "" and not list(damaged(other))
    path = latest(other, "last.ckpt")
    assert path is not None
    whole, saved = path.read_bytes(), load(path)
    saved["optimizer_states"][0]["state"][0]["exp_avg"].view(-1)[0] += 1e-6
    torch.save(saved, path)
    assert differences(one, other) == "optimizer_states differs"
    assert "is damaged" in next(damaged(other))
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut short" in next(damaged(other))
    path.write_bytes(whole)
    (path.parent.parent / "metrics.jsonl").write_text('{"student_updates": 1, "role": "average", "values": {}}\n')
    assert differences(one, other) == "metrics.jsonl differs"


@pytest.mark.slow
def test_a_run_that_is_ended_in_every_way_is_bit_for_bit_the_undisturbed_one(tmp_path: Path):
    words = ["--only", "ect_mixture", "--ways", "writing", "limit", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.kills", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "kills.json").read_text())["rows"].values()
    assert row["equal"] == row["runs"] == 1 and all(row["ended"].values())
