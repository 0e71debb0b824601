"""One seed drives a run: its networks, its data, its random numbers; what is measured does not depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import assert_same_training, fastgen, last, load, mixture, write

from fastgen.data import DistillationData
from fastgen.data.digits import Digits
from fastgen.data.mixture import Mixture
from fastgen.denoisers.exact.mixtures import RingMixture
from fastgen.methods import SiD
from fastgen.processes import EDM


def config(folder: Path, **model: Any) -> Path:
    content = mixture(folder, steps=2, batch_size=8, **model)
    content["data"]["init_args"]["with_x0"] = True
    return write(folder / "config.yaml", content)


def test_seed_everything_reaches_all_that_is_random(tmp_path: Path):
    path = config(tmp_path)
    for words in (["--seed_everything=1"], ["--seed_everything=2"], ["--seed_everything=1"]):
        assert fastgen("fit", "--config", path, *words) == 0
    first, second, again = (last(tmp_path, version) for version in range(3))
    assert_same_training(first, again)
    student = [
        {k: v for k, v in load(file)["state_dict"].items() if k.startswith("student")} for file in (first, second)
    ]
    assert all(not torch.equal(v, student[1][k]) for k, v in student[0].items() if v.ndim > 1)
    for file in (first, again):
        assert load(file)["fastgen"]["recipe"]["init_args"]["seed"] == 1, "sampling and resumes need the number itself"
    saved = yaml.safe_load((second.parents[1] / "config.yaml").read_text())
    assert saved["model"]["init_args"]["seed"] == saved["data"]["init_args"]["seed"] == 2
    assert fastgen("fit", "--config", second.parents[1] / "config.yaml") == 0
    assert_same_training(second, last(tmp_path, 3))


def test_parts_may_have_seeds_of_their_own(tmp_path: Path):
    path = config(tmp_path)
    runs = {
        "plain": ["--seed_everything=1"],
        "data": ["--seed_everything=1", "--data.init_args.seed=5"],
        "model": ["--seed_everything=5", "--model.init_args.seed=1", "--data.init_args.seed=1"],
        "zero": ["--seed_everything=false"],
    }
    for words in runs.values():
        assert fastgen("fit", "--config", path, *words) == 0
    files = {name: last(tmp_path, version) for version, name in enumerate(runs)}
    assert_same_training(files["plain"], files["model"])
    assert load(files["zero"])["fastgen"]["recipe"]["init_args"]["seed"] == 0
    resolved = yaml.safe_load((files["data"].parents[1] / "config.yaml").read_text())
    assert [resolved[part]["init_args"]["seed"] for part in ("model", "data")] == [1, 5]


def test_a_sample_does_not_depend_on_the_seed_of_the_training():
    def samples(seed: int) -> torch.Tensor:
        method = SiD(teacher=lambda: RingMixture(EDM()), student=lambda: RingMixture(EDM()), seed=seed)
        method.configure_model()
        return method.sample(range(4), {}, role="teacher")

    assert torch.equal(samples(1), samples(2))


@pytest.mark.parametrize("make", [lambda seed: Mixture(lambda: RingMixture(EDM()), with_x0=True, seed=seed), Digits])
def test_what_is_measured_does_not_depend_on_the_seed(make: Any):
    one, other = make(seed=1), make(seed=2)

    def measured(data: DistillationData) -> list[torch.Tensor]:
        splits = [batch["x0"] for loader in (data.val_dataloader(), data.test_dataloader()) for batch in loader]
        return [data.reference()["samples"], *splits]

    assert all(torch.equal(a, b) for a, b in zip(measured(one), measured(other), strict=True))
    first = [next(iter(data.train_dataloader()))["x0"] for data in (one, other)]
    assert not torch.equal(*first)


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("--seed_everything=-1", "seed_everything must be an integer from 0 to 4294967295, got -1"),
        ("--seed_everything=4294967296", "seed_everything must be an integer from 0 to 4294967295, got 4294967296"),
        ("--model.init_args.seed=-3", "seed must be an integer from 0 to 4294967295, got -3"),
        ("--data.init_args.seed=99999999999999999999", "seed must be an integer from 0 to 4294967295, got 9999"),
    ],
)
def test_a_seed_out_of_range_is_one_sentence(word: str, place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert fastgen("fit", "--config", config(tmp_path), word) == 2
    err = capfd.readouterr().err
    assert place in err and "from 0 to 4294967295" in err and "Traceback" not in err
