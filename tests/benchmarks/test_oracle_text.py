"""The oracle's problem of captions, on a tiny pipeline with random weights."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from denoisers.tiny_sd import write_tiny_pipeline

from benchmarks.oracle import __main__ as program
from benchmarks.oracle import run as runs
from benchmarks.oracle import text
from benchmarks.oracle.recipes import all_recipes, model
from benchmarks.oracle.table import details
from benchmarks.oracle.text import KEPT, TextJudge, TextProblem, text_problem
from fastgen.denoisers.diffusers import pipeline_files
from fastgen.methods import Distiller
from fastgen.sampling.solvers import Euler
from fastgen.storage.files import ASSETS

pytestmark = pytest.mark.filterwarnings("ignore")
DRAWINGS = Path(__file__).parents[1] / "data" / "emoji"
COUNT = 12


@pytest.fixture
def problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextProblem:
    """Two Euler steps where the problem has 25, 12 samples where it has 400."""
    monkeypatch.setattr(text, "STEPS", 2)
    monkeypatch.setattr(runs, "PROBE", 1)
    monkeypatch.setattr(runs, "teachers_solvers", lambda guidance: [Euler(1, guidance), Euler(2, guidance)])
    folder = str(write_tiny_pipeline(tmp_path / "teacher"))
    data = {"font": str(DRAWINGS), "drawings": str(DRAWINGS / "drawings.txt"), "reference_count": 24}
    made = text_problem(folder, {"resolution": 32}, data, COUNT)
    made = dataclasses.replace(made, budget=120, batch_size=2, guidances=(1.0,))
    made.prepare(tmp_path / "work")
    return made


def test_without_the_teacher_it_is_one_sentence(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(pipeline_files, "ASSETS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["oracle", "--problem", "text", "--out", str(tmp_path), "--work", str(tmp_path)])
    assert program.main() == 2
    assert capsys.readouterr().err.startswith("fastgen: The miniature 'emoji-sd' is not part of this installation")
    assert program.there(None) == ["ring", "guided", "images", "digits"]
    assert "without 'text': The miniature 'emoji-sd'" in capsys.readouterr().err


def test_every_recipe_can_be_built(problem: TextProblem) -> None:
    for name, recipe in all_recipes().items():
        if "text" not in dict(recipe.without):
            assert type(runs.instantiate(Distiller, model(recipe, problem, None, 100))).__name__ == recipe.method, name


def test_the_teacher_and_what_drawings_get(problem: TextProblem, tmp_path: Path) -> None:
    record = runs.teachers(problem, None)
    (real,) = record["real"]
    assert real["name_accuracy"] > 0.9 and real["caption_accuracy"] > 0.9 and record["floor"] == real["distance"]
    assert [row["calls"] for row in record["teacher"]] == [1, 2]
    untrained = [(row["distance"] > real["distance"], row["name_accuracy"] < 0.5) for row in record["teacher"]]
    assert untrained == [(True, True)] * 2
    assert [row["guidance"] for row in record["guidance"]] == [1.0, 3.0]
    assert record["guidance"][0]["distance"] != record["guidance"][1]["distance"]
    (kept,) = (tmp_path / "work").glob("text-teacher-*.safetensors")
    judge = problem.judge
    assert isinstance(judge, TextJudge)
    own = judge.solved(3.0, text.SEED)
    assert own.shape == (COUNT, 3, 32, 32) and judge.values(own)["teacher_distance"] < 1e-3
    kept.unlink()
    other = TextJudge(judge.teacher, judge.options, judge.guidance, judge.count)
    torch.testing.assert_close(other.teachers_features, judge.teachers_features)
    page = "\n".join(details({("text", "teacher"): record}, "text"))
    assert "| retrieval | attributes | diversity |" in page and "| real, drawings | 0 |" in page
    assert "| guidance, Euler, guidance 1 | 2 |" in page


@pytest.mark.parametrize("name", ["SiD", "KD"])
def test_a_run(problem: TextProblem, name: str) -> None:
    """On captions alone, and on pairs that the solver makes of them."""
    recipe = all_recipes()[name]
    if recipe.pairs:
        recipe = dataclasses.replace(recipe, arguments=lambda p, n: {"solver": text.part("Euler", steps=2)})
    record = runs.run(problem, name, recipe, None)
    assert "failure" not in record, record
    (row,) = record["rows"]
    assert row["steps"] == 1 and {"distance", "teacher_distance", *KEPT} < set(row)
    assert 0 < record["evaluations"] <= 1.2 * problem.budget and len(record["curve"]) <= 2
    assert record["pair_evaluations"] == (int(0.4 * 120 / 2) * 2 if recipe.pairs else 0)


def test_it_is_the_miniature_by_name() -> None:
    made = text_problem()
    assert made.teacher == {"class_path": "StableDiffusion", "init_args": {"pretrained": "emoji-sd"}}
    assert made.student("ignored") == made.teacher and made.judge.count == 400
    if (ASSETS / "miniatures" / "emoji-sd").is_dir():
        made.check()
