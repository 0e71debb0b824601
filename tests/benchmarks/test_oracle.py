"""The oracle benchmark, end to end at a tiny size."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path

import pytest
import torch

import fastgen.methods
from benchmarks.oracle import __main__ as program
from benchmarks.oracle.cost import FORWARD_MODE, Evaluations
from benchmarks.oracle.problems import PROBLEMS
from benchmarks.oracle.recipes import RECIPES, Recipe, all_recipes, concrete, model
from benchmarks.oracle.run import Count, Stop, fit, instantiate, run, run_fingerprint
from benchmarks.oracle.table import READING
from fastgen.data import Mixture
from fastgen.denoisers import MLP, RingMixture
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.methods import DMD2, Distiller, SiD
from fastgen.objectives.tangents import jvp
from fastgen.processes import EDM

pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_method_has_a_row(monkeypatch: pytest.MonkeyPatch):
    exported = {name: getattr(fastgen.methods, name) for name in fastgen.methods.__all__}
    methods = {name for name, cls in exported.items() if not inspect.isabstract(cls)} - {"Distiller"}
    assert {recipe.method for recipe in all_recipes().values()} == methods == {cls.__name__ for cls in concrete()}
    monkeypatch.delitem(RECIPES, "SiD")
    assert all_recipes()["SiD"] == Recipe("SiD")


@pytest.mark.parametrize("turn", [0, 1])
def test_every_recipe_can_be_built(turn: int):
    """Half of them for one problem, half for another."""
    made = PROBLEMS[("guided", "digits")[turn]]()
    for recipe in list(all_recipes().values())[turn::2]:
        assert type(instantiate(Distiller, model(recipe, made, None, 100))).__name__ == recipe.method


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        # Shared rollout 3 with its backward pass, two scores, critic 3.
        (DMD2, 3 + 2 + 3),
        # Critic: rollout 1 and 3; student: rollout 3, and 2 each for teacher and critic, whose weights rest.
        (SiD, 1 + 3 + 3 + 2 + 2),
    ],
)
def test_evaluations_are_counted(cls: type[DMD2] | type[SiD], expected: int):
    schedule = UpdateSchedule(critic_first=False, reuse_rollout=cls is DMD2)
    method = cls(teacher=lambda: MLP(EDM(), width=16), critic=lambda: MLP(EDM(), width=16), schedule=schedule)
    counter = Count()
    fit(method, Mixture(lambda: RingMixture(EDM()), batch_size=8), -1, counter, Stop(3))
    assert counter.evaluations.count == 3 * 8 * expected


def test_a_pass_with_a_tangent_costs_more():
    network, counter = MLP(EDM(), width=16), Evaluations()
    network.register_forward_hook(counter.called)
    x, t = torch.randn(4, 2), torch.ones(4, dtype=torch.float64)
    with torch.no_grad():
        network(x, t)
        assert counter.count == 4
        jvp(lambda x: network(x, t).x0, (x,), (x,))
    assert counter.count == 4 + 4 * FORWARD_MODE
    counter.active = False
    network(x, t)
    assert counter.count == 4 + 4 * FORWARD_MODE


def test_a_failure_is_a_record():
    problem = PROBLEMS["ring"]()
    record = run(problem, "KD", Recipe("KD", lambda p, n: {"solver": 3}), "asset:teacher_mixture.safetensors")
    assert "solver" in record["failure"] and "rows" not in record


def test_a_fingerprint_is_that_of_the_recipe():
    ring, digits = PROBLEMS["ring"](), PROBLEMS["digits"]()
    one = run_fingerprint(ring, RECIPES["SiD"])
    assert one == run_fingerprint(PROBLEMS["ring"](), RECIPES["SiD"])
    other = Recipe("SiD", lambda p, n: RECIPES["SiD"].arguments(p, n) | {"alpha": 1.1}, steps=(1,))
    assert len({one, run_fingerprint(ring, other), run_fingerprint(digits, RECIPES["SiD"])}) == 3


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    words = ["oracle", "--problem", "ring", "--method", "KD", "--budget", "0.02"]
    words += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]

    def main(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        assert program.main() == 0
        return capsys.readouterr().out

    small = PROBLEMS["ring"]
    monkeypatch.setitem(PROBLEMS, "ring", lambda: dataclasses.replace(small(), start_updates=0))
    monkeypatch.setattr(program, "ASSET", "asset:teacher_mixture.safetensors")
    assert "2 runs" in main(), "the teacher and KD"
    merged = json.loads((tmp_path / "out" / "oracle.json").read_text())["runs"]
    kd = next(record for record in merged if record["name"] == "KD")
    pairs = int(0.4 * 40_000 / 35) * 35
    assert kd["pair_evaluations"] == pairs and kd["updates"] == (40_000 - pairs) // (3 * 512)
    assert kd["evaluations"] == pairs + 3 * 512 * kd["updates"]
    distances = [row["distance"] for row in kd["curve"]]
    assert len(distances) == 4 and distances[-1] < 0.6 < 0.87, "a teacher called once is 0.87 away"
    assert kd["rows"][0]["distance"] == distances[-1]

    assert "0 runs" in main(), "finished runs are not repeated"
    for path in (tmp_path / "work").glob("*.json"):
        path.unlink()
    assert "0 runs" in main(), "the merged file is enough"
    page = tmp_path / "out" / "oracle.md"
    assert f"| KD | **{distances[-1]:.3f}** / - / - |" in page.read_text()
    page.write_text(page.read_text().replace(f"{READING}\n\n", f"{READING}\nKD wins.\n", 1))
    assert "0 runs" in main("--method", "KD") and "KD wins." in page.read_text(), "what was written by hand stays"
    assert "1 runs" in main("--again")
