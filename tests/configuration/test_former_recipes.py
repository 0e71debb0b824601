"""Checkpoints that were written before classes and options had their present names still give samples."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgen.configuration.former_recipes import in_present_names
from fastgen.methods.recipes import generator_from

RECIPES = json.loads((Path(__file__).parents[1] / "former_recipes.json").read_text())
"""Those of shipped configs at the time, without what only training needs."""
CALLS = {"optimal_steps_digits": 5, "scm_mixture": 2, "rcm_mixture": 2, "tdm_mixture": 2}


@pytest.mark.parametrize("name", RECIPES)
def test_a_former_recipe_builds_what_it_meant(name: str):
    method = generator_from(RECIPES[name])
    method.read_weights = False
    method.configure_for_sampling()
    network = method.teacher if name == "optimal_steps_digits" else method.student
    condition: dict[str, Any] = {"label": torch.tensor([3])} if network.num_classes else {}
    assert bool(method.sample([0], condition, role="student").isfinite().all())
    assert method.evaluations("student") == CALLS.get(name, 1)
    former = RECIPES[name]["init_args"].get("sampler") or {}
    times = (former.get("init_args") or {}).get("times")
    assert not times or method.sampler.schedule(method.student) == times


def test_a_recipe_of_today_is_left_as_it_is():
    recipe = {"class_path": "fastgen.methods.SiD", "init_args": {"alpha": 1.0, "teacher": {"class_path": "a.B"}}}
    assert in_present_names(recipe) == recipe


def test_a_class_that_has_moved_is_found_by_its_name():
    """Recipes hold whole paths; what is no module of fastgen any more leads nowhere, and to no stranger."""
    part = {"class_path": "fastgen.time_laws.ToData", "init_args": {"law": {"class_path": "fastgen.times.FlowTime"}}}
    recipe = {"class_path": "fastgen.methods.SCM", "init_args": {"times": part, "sampler": {"class_path": "os.system"}}}
    found = in_present_names(recipe)["init_args"]
    assert found["times"] == {"class_path": "ToData", "init_args": {"law": {"class_path": "fastgen.times.FlowTime"}}}
    assert found["sampler"] == {"class_path": "os.system"}


def sampler(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"fastgen.sampling.samplers.{name}", "init_args": arguments}


def former(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "fastgen.sampling.students.StudentSampler", "init_args": arguments}


@pytest.mark.parametrize(
    ("method", "old", "new"),
    [
        ("DMD2", {"sampler": former(times=None, level=None)}, {"sampler": sampler("RenoiseSampler")}),
        ("DMD2", {"sampler": former(stochastic=True, level=2.5)}, {"sampler": sampler("RenoiseSampler", level=2.5)}),
        ("ECT", {"sampler": former(stochastic=False, steps=2)}, {"sampler": sampler("JumpSampler", steps=2)}),
        (
            "DMD2",
            {"sampler": former(times=[9.0, 3.0], steps=1)},
            {"sampler": sampler("RenoiseSampler", times=[9.0, 3.0])},
        ),
        (
            "PiFlow",
            {"substeps": 64, "last_segment": 0.5, "sampler": former(times=None, steps=4, stochastic=False)},
            {"sampler": sampler("PolicySampler", steps=4, substeps=64, last_segment=0.5)},
        ),
        ("OptimalSteps", {"steps": 7}, {"sampler": sampler("GridSampler", steps=7)}),
        ("LCM", {"target": "slow", "group": 2}, {"group": 2}),
        (
            "DMD2",
            {"extras": [{"class_path": "a.B", "init_args": {"sampler": former()}}]},
            {"extras": [{"class_path": "a.B", "init_args": {"sampler": sampler("RenoiseSampler")}}]},
        ),
    ],
    ids=str,
)
def test_former_words_by_hand(method: str, old: dict[str, Any], new: dict[str, Any]):
    recipe = {"class_path": f"fastgen.methods.{method}", "init_args": old}
    assert in_present_names(recipe) == {"class_path": f"fastgen.methods.{method}", "init_args": new}
