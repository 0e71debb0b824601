"""Arguments of a component are of their declared types, also where its own class is declared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from fastgen.configuration.parsing import named_anew, refuse_mistyped
from fastgen.errors import UserError
from fastgen.objectives.metrics import SquaredError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
LOSS = "fastgen.objectives.metrics.SquaredError"
POLICY = "fastgen.sampling.samplers.policy.PolicySampler"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"class_path": POLICY, "init_args": {"steps": []}}, "sampler.init_args.steps must be an integer, got []"),
        ({"class_path": POLICY, "init_args": {"level": {}}}, "sampler.init_args.level must be "),
        ({"class_path": POLICY, "init_args": {"last_segment": "x"}}, "last_segment must be a number, got 'x'"),
        ({"class_path": POLICY, "no_such_key": 1}, "sampler has the key 'no_such_key' beside class_path"),
        ([{"class_path": POLICY, "init_args": {"step": 1}}], "sampler[0].init_args has no option 'step'"),
    ],
)
def test_what_is_mistyped_is_refused_with_its_key(value: Any, says: str):
    with pytest.raises(UserError) as refusal:
        refuse_mistyped({"sampler": value})
    assert says in str(refusal.value)


def test_a_stray_key_beside_a_class_is_left_for_the_parser_to_refuse():
    given = {"class_path": LOSS, "stray": 1}
    action = SimpleNamespace(default={"class_path": LOSS, "init_args": {}}, _typehint=SquaredError)
    assert named_anew(action, given)["stray"] == 1  # type: ignore[arg-type]


def test_every_shipped_config_is_of_its_types():
    for path in CONFIGS:
        refuse_mistyped(yaml.safe_load(path.read_text(encoding="utf-8")))
