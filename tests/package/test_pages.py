"""The pages "a method in one file" and "a family in one file" do what they say."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import fastgen, last, mixture, trainer, write
from safetensors.torch import load_file

DOCS = Path(__file__).parents[2] / "docs"
METHOD, FAMILY = "a_method_in_one_file.md", "a_family_in_one_file.md"


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", (DOCS / page).read_text(encoding="utf-8"), re.S | re.M)
    return [textwrap.dedent(text) for _, text in found]


def module_of(page: str, name: str, folder: Path, patch: pytest.MonkeyPatch) -> Any:
    """The page's file, where Python finds it."""
    (folder / f"{name}.py").write_text(blocks(page, "python")[0])
    patch.syspath_prepend(folder)
    return __import__(name)


def test_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    own = module_of(METHOD, "my_method", tmp_path, monkeypatch)
    config = yaml.safe_load(blocks(METHOD, "yaml")[0])
    config["data"]["init_args"]["batch_size"] = 64
    config["trainer"] = trainer(tmp_path, 40)
    assert fastgen("fit", "--config", write(tmp_path / "my_method.yaml", config)) == 0, capfd.readouterr().err
    out = tmp_path / "points.safetensors"
    words = ["--ckpt", last(tmp_path), "--seeds", "0-255", "--out", out, "--device", "cpu"]
    assert fastgen("sample", *words) == 2 and "--trust my_method" in capfd.readouterr().err
    assert fastgen("sample", *words, "--trust", "my_method") == 0
    (points,) = (value for value in load_file(out).values() if value.ndim == 2)
    assert 0.3 < points.norm(dim=1).mean() < 4.0  # 5.0 noise before it has learnt
    config["model"]["init_args"]["extras"] = yaml.safe_load(blocks(METHOD, "yaml")[1])["extras"]
    config["trainer"] = trainer(tmp_path, 2)
    assert fastgen("fit", "--config", write(tmp_path / "gan.yaml", config)) == 0, capfd.readouterr().err
    with pytest.raises(own.checks.UserError, match="power must be in"):
        own.EnergyDistance(power=2.0)


def test_the_energy_distance_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = module_of(METHOD, "my_method", tmp_path, monkeypatch)
    x, y = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0]])
    method = own.EnergyDistance.__new__(own.EnergyDistance)
    torch.nn.Module.__init__(method)
    method.power = 1.0
    part = type("Part", (), {"x0": y})()
    method.rollout = lambda part, role: type("Rollout", (), {"x0": x})()
    assert method.student_loss(part)["energy"] == pytest.approx((0 + 5) / 2 - 5 / 2)


@pytest.mark.parametrize("method", ["DMD2", "MeanFlow"])
def test_a_family(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """As the student of a method, and as that of one that needs a second time."""
    module_of(FAMILY, "my_family", tmp_path, monkeypatch)
    student = yaml.safe_load(blocks(FAMILY, "yaml")[0])["student"]
    config = mixture(tmp_path, method, 2, student=student)
    arguments = config["model"]["init_args"]
    arguments["sampler"] = "RenoiseSampler"  # from t = 1 of the family's own process
    if method == "MeanFlow":
        for name in ("critic", "critic_optimizer", "sampler"):
            del arguments[name]
        config["data"]["init_args"]["with_x0"] = True
    assert fastgen("fit", "--config", write(tmp_path / "c.yaml", config)) == 0, capfd.readouterr().err
    out = tmp_path / "points.safetensors"
    words = ["--ckpt", last(tmp_path), "--seeds", "0-3", "--out", out, "--device", "cpu", "--trust", "my_family"]
    assert fastgen("sample", *words) == 0, capfd.readouterr().err


def test_a_family_is_guided_and_takes_added_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = module_of(FAMILY, "my_family", tmp_path, monkeypatch)
    network, x, t = own.Perceptron(num_classes=3), torch.randn(4, 2), torch.full((4,), 0.5)
    label = {"label": torch.tensor([0, 1, 2, 0])}
    before = network(x, t, label).velocity
    network.add_second_time()
    torch.testing.assert_close(network(x, t, label, t).velocity, before)
    assert network.null_condition(label)["label"].tolist() == [3] * 4
