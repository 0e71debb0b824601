"""The benchmark for GPUs: it runs with tiny networks, counts operations rightly and knows the released sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import FreeData, build, trainer

from benchmarks import gpu
from benchmarks.geometries import GEOMETRIES
from fastgen.conditions import Guidance
from fastgen.methods import DMD2


@pytest.mark.parametrize("model", GEOMETRIES)
def test_geometries_have_the_published_sizes(model: str, tmp_path: Path):
    """The library builds its denoisers from the configurations alone."""
    geometry = GEOMETRIES[model]
    with torch.device("meta"):
        network = geometry.denoiser(str(geometry.write(tmp_path)), resolution=1024)
    assert sum(p.numel() for p in network.parameters()) == geometry.parameters
    assert network.sample_shape == (4 if model == "sdxl" else 16, 128, 128)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_turns_cost_what_their_matrices_say(guidance: float):
    """DMD2 on a network that only multiplies matrices: every forward, backward and guided call, no more."""
    method = build(gpu.measured(DMD2), guidance=Guidance(teacher=guidance))
    batch = 6
    trainer((gpu.WARM_UP + 1) * 5).fit(method, FreeData(batch_size=batch))
    network = method.student
    products = {name: m.weight.numel() for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    first = sum(size for name, size in products.items() if name in ("stem", "time_embedding.0"))
    assert first > 0
    forward = 2 * batch * sum(products.values())
    backward = 2 * forward - 2 * batch * first  # no gradient of the noisy sample and of the time
    rows = 1 if guidance == 1.0 else 2
    assert method.flops == {
        "student": forward + backward + rows * forward + forward,
        gpu.SHARED: forward + backward,
        "critic": forward + forward + backward,
    }
    row = gpu.summary(method)
    per_update = method.flops["student"] + method.flops[gpu.SHARED] + 4 * method.flops["critic"]
    assert row["update_seconds"] * row["update_tflops"] * 1e12 == pytest.approx(per_update)
    assert {turn: values["per_update"] for turn, values in row["turns"].items()} == {
        "student": 1,
        gpu.SHARED: 1,
        "critic": 4,
    }


@pytest.mark.parametrize("options", [["qwenimage"], ["sdxl", "--method", "SiD", "--full"]], ids=["adapters", "full"])
def test_the_program_runs_with_tiny_networks(options: list[str], tmp_path: Path):
    assert gpu.main(["--tiny", "--steps", "1", "--out", str(tmp_path), "--model", *options]) == 0
    ((name, row),) = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")).items()
    full = "--full" in options
    trained = row["trained"]
    assert trained["student"] == trained["critic"]
    assert (trained["student"] == row["parameters"]) == full
    # What rests is bf16 and what learns is fp32: the teacher, which adapters share, and each student and critic.
    learned = trained["student"] + trained["critic"]
    assert row["weights_gib"] * 2**30 == pytest.approx(2 * row["parameters"] + 4 * learned, rel=1e-3)
    assert row["skipped_updates"] == 0
    for turn in row["turns"].values():
        assert turn["tflops"] == pytest.approx(turn["tflop"] / turn["seconds"])
    student, critic = (row["turns"][turn]["tflop"] for turn in ("student", "critic"))
    assert student > critic > 0
    assert f"| {name} | CPU |" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]):
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1
