"""Roles on adapters from the command line: configure, train, save, sample."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import EMA, RING, checkpoint, fastgen, last, load, trainer, unshared, write
from PIL import Image

from fastgen.checkpoints.reading import method_from_checkpoint
from fastgen.denoisers import MLP
from fastgen.denoisers.wrappers.lora import AdaptedDenoiser
from fastgen.processes import EDM

NETWORK = {
    "class_path": "MLP",
    "init_args": {"process": {"class_path": "EDM"}, "weights": "asset:teacher_mixture.safetensors"},
}
LORA = {"class_path": "LoRA", "init_args": {"rank": 2, "layers": ["blocks.*"]}}


@pytest.mark.parametrize("method", ["SiD", "SwiftBrush"])
def test_adapters_from_the_command_line(method: str, tmp_path: Path):
    """The checkpoint holds the adapters alone; sampling from it reads the teacher's own weights again."""
    arguments = {
        "teacher": NETWORK,
        "student": LORA,
        "critic": LORA,
        "guidance": {"teacher": 1.0, "critic": 1.0},
        "sampler": {"class_path": "RenoiseSampler", "init_args": {"times": [5.0]}},
        "student_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-2}},
        "critic_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-2}},
    }
    config = {
        "threads": 1,
        "trainer": trainer(tmp_path, 4, EMA, checkpoint()),
        "model": {"class_path": method, "init_args": arguments},
        "data": {"class_path": "Mixture", "init_args": {"distribution": RING, "batch_size": 32}},
    }
    path = write(tmp_path / "config.yaml", unshared(config))
    assert fastgen("fit", "--config", path) == 0
    names = load(last(tmp_path))["state_dict"]
    assert {name.split(".")[0] for name in names} == {"student", "critic", "averages"}
    assert all(".changes.blocks/" in name for name in names)

    restored = method_from_checkpoint(last(tmp_path))
    assert isinstance(restored.student, AdaptedDenoiser)
    original = MLP(EDM(), weights="asset:teacher_mixture.safetensors")
    original.load_weights()
    x, t = torch.randn(5, 2), torch.full((5,), 2.0, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(restored.student.base(x, t).value, original(x, t).value)
        moved = (restored.student(x, t).value - original(x, t).value).abs().max()
        assert moved > 1e-4, "the adapter has learned"
        merged = restored.student.merged()(x, t).value
    torch.testing.assert_close(merged, restored.student(x, t).value, rtol=1e-4, atol=1e-5)
    grid = tmp_path / "points.png"
    assert fastgen("sample", f"--ckpt={last(tmp_path)}", "--seeds=0-15", f"--out={grid}") == 0
    assert Image.open(grid).size[0] > 30


def test_an_adapter_without_a_teacher_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    config = {
        "trainer": trainer(tmp_path, 1),
        "model": {"class_path": "SiD", "init_args": {"student": LORA}},
        "data": {"class_path": "Mixture", "init_args": {"distribution": RING, "batch_size": 8}},
    }
    assert fastgen("fit", "--config", write(tmp_path / "config.yaml", unshared(config))) == 2
    assert "teacher" in capfd.readouterr().err
