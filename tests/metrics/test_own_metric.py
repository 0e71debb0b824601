"""Metrics by class path: what a user writes, what is saved, how old options are told the new form."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import digits, fastgen, trainer, write
from feature_space import Space

from fastgen.errors import UserError
from fastgen.metrics import FeatureMetric, Features, FrechetDistance, ImageMetrics, Pixels, PrecisionRecall
from fastgen.metrics.suites.image_suite import DEFAULT

PAGE = Path(__file__).parents[2] / "docs" / "a_metric_in_one_file.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def evaluation(folder: Path, suite: dict[str, Any]) -> Path:
    """A run of digits that only evaluates."""
    arguments = {"suite": suite, "count": 40, "batch_size": 20, "teacher_once": False}
    config = digits(folder)
    config["trainer"] = trainer(folder, 1, {"class_path": "Evaluate", "init_args": arguments})
    return write(folder / "run.yaml", config)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    own, in_python = blocks("python")
    (tmp_path / "my_metric.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(in_python, names)  # what a reader would type
    assert list(names["suite"].metrics()) == ["FrechetDistance", "Spread"]
    (said,) = blocks("yaml")
    assert fastgen("fit", "--config", evaluation(tmp_path, yaml.safe_load(said)["suite"])) == 0, capfd.readouterr().err
    (path,) = tmp_path.rglob("metrics.jsonl")
    row = json.loads(path.read_text().splitlines()[-1])
    assert row["kinds"]["my_spread"] == {"aspect": "coverage", "better": "higher"}
    assert row["kinds"]["frechet"] == {"aspect": "fidelity", "better": "lower"}
    assert 0.0 < row["values"]["my_spread"] < 10.0 and row["ratio_to_teacher"]["my_spread"] > 0
    capfd.readouterr()
    assert fastgen("compare", path.parent) == 0
    shown = capfd.readouterr().out
    assert "frechet" in shown and "my_spread" in shown and "not shown" not in shown


def test_defaults_are_written_out_and_read_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    suite = {"class_path": "ImageMetrics", "init_args": {"extractor": {"class_path": "Pixels"}}}
    assert fastgen("fit", "--config", evaluation(tmp_path, suite), "--print_config") == 0
    printed = capfd.readouterr().out
    metrics = yaml.safe_load(printed)["trainer"]["callbacks"][0]["init_args"]["suite"]["init_args"]["metrics"]
    names = [f"fastgen.metrics.{type(metric).__name__}" for metric in DEFAULT]
    assert [metric["class_path"] for metric in metrics] == names
    assert metrics[3]["init_args"] == {"neighbours": 5}
    again = tmp_path / "again.yaml"
    again.write_text(printed)
    assert fastgen("fit", "--config", again, "--print_config") == 0
    assert capfd.readouterr().out == printed


@pytest.mark.parametrize(
    ("suite", "options", "says"),
    [
        ("ImageMetrics", {"neighbours": 3}, "neighbours is PrecisionRecall's now: write metrics: [FrechetD"),
        ("ImageMetrics", {"metrics": ["frechet", "kid"]}, "metrics[0]: frechet is FrechetDistance now"),
        ("TextImageMetrics", {"scores": ["CLIPScore"]}, "scores is called metrics now"),
        ("TextImageMetrics", {"alignment_count": 8}, "alignment_count is TeacherAlignment's now"),
        ("MixtureMetrics", {"exact_count": 8}, "exact_count is WassersteinDistance's now: write metrics: [{cl"),
    ],
)
def test_old_options_are_told_the_new_form(suite: str, options: dict, says: str, tmp_path: Path, capfd):
    config = evaluation(tmp_path, {"class_path": suite, "init_args": {"extractor": "Pixels"} | options})
    assert fastgen("fit", "--config", config) == 2
    err = capfd.readouterr().err
    assert f"trainer.callbacks[0].init_args.suite.init_args.{says}" in err and err.count("\n") == 1


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match="PrecisionRecall: neighbours must be an integer from 1, got 0"):
        PrecisionRecall(neighbours=0)


@dataclass(frozen=True)
class Count(FeatureMetric):
    numbers = {"n": FrechetDistance.numbers["count"]}
    needs_reference = False

    def measure(self, samples: Features, reference: Features) -> dict[str, float]:
        assert len(reference) == 0
        return {"n": float(len(samples))}


def test_a_metric_without_a_reference_gets_none():
    suite = ImageMetrics(Pixels(2, 1), metrics=[Count()])
    suite.set_reference(None)
    suite.update(torch.rand(7, 1, 4, 4))
    assert suite.compute() == {"n": 7.0}


def test_a_metric_must_say_what_its_numbers_measure():
    class Silent(FeatureMetric):
        pass

    with pytest.raises(TypeError, match="numbers"):
        Silent()  # type: ignore[abstract]
    with pytest.raises(UserError, match="Space is no classifier"):
        Features(torch.zeros(3, 2), None, Space(2)).logits()
