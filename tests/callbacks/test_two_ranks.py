"""All callbacks on two processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.distributed


def start(*words):
    command = [sys.executable, str(Path(__file__).parent / "two_ranks.py"), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_two_ranks_equal_one(tmp_path):
    for devices in (1, 2):
        process = start(tmp_path / str(devices), 5, devices)
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
    one, two = (
        torch.load(tmp_path / str(devices) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for devices in (1, 2)
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)
    rows = [
        [json.loads(line) for line in (tmp_path / str(devices) / "metrics.jsonl").read_text().splitlines()]
        for devices in (1, 2)
    ]
    assert len(rows[0]) == len(rows[1]) == 4  # teacher, teacher once, update 4, update 5
    for single, double in zip(*rows, strict=True):
        assert double["values"]["frechet"] == pytest.approx(single["values"]["frechet"], rel=1e-4)
    files = sorted(path.name for path in (tmp_path / "2" / "checkpoints").iterdir())
    assert files == ["best.ckpt", "last.ckpt", "step=000004.ckpt", "student.safetensors"]
    assert json.loads((tmp_path / "2" / "throughput.json").read_text())["samples"] == 160


def test_sigterm_to_one_rank_stops_both_after_the_same_batch(tmp_path):
    process = start(tmp_path, 400, 2, 0.05)
    for line in process.stdout:
        if line.strip() == "in batch 5":
            process.send_signal(signal.SIGTERM)
            break
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 128 + signal.SIGTERM, errors
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == checkpoint["fastgen"]["iteration"] // 2 >= 3
