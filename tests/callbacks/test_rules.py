"""The keys of caches, the choice of the best, and the arithmetic of ranks, each by rule and without a run."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from tiny import TinyData, TinyDistiller, TinySuite

from fastgen.callbacks import EMA, Checkpoint, Evaluate, HalfLifeEMA, Health, Throughput
from fastgen.callbacks.evaluation import measurement as evaluation_module
from fastgen.callbacks.evaluation.unfinished import Unfinished, weights_digest
from fastgen.results.former_names import kind_by_name
from fastgen.results.rows import ratios
from fastgen.sampling.samplers import JumpSampler, RenoiseSampler
from fastgen.sampling.solvers import Euler, Heun
from fastgen.storage.files import save_tensors


def world(folder: Path, rank: int = 0, size: int = 1, **more: Any) -> Any:
    """A trainer of one of several processes, as far as callbacks ask."""
    strategy = SimpleNamespace(
        broadcast=lambda value, *_: value,
        barrier=lambda *_: None,
        reduce=lambda value, reduce_op: value,
        reduce_boolean_decision=lambda value, all=True: value,
    )
    stub = SimpleNamespace(
        world_size=size,
        global_rank=rank,
        is_global_zero=rank == 0,
        callbacks=[],
        loggers=[],
        log_dir=str(folder),
        datamodule=TinyData(),
        precision="32-true",
        state=SimpleNamespace(fn=TrainerFn.TESTING),
        strategy=strategy,
        should_stop=False,
        global_step=0,
        callback_metrics={},
        received_sigterm=False,
    )
    vars(stub).update(more)
    return stub


def method() -> TinyDistiller:
    result = TinyDistiller()
    result.configure_model()
    result.recipe = {"class_path": "TinyDistiller"}
    result.sampler = RenoiseSampler([50.0])
    return result


class Named(TinySuite):
    """A suite of another name, or with another reference."""

    name, reference_name = "tiny", ""

    def fingerprint(self) -> str:
        return self.name


# What samples and numbers depend on: (what changes, whether the teacher's rows and a student's samples do with it).
CHANGES: dict[str, tuple[Callable[[Any, Any, Any], None], bool, bool]] = {
    "nothing": (lambda t, m, e: None, False, False),
    "steps of the solver": (lambda t, m, e: setattr(m, "solver", Euler(steps=4)), True, False),
    "guidance of the solver": (lambda t, m, e: setattr(m, "solver", Euler(steps=3, guidance=2.0)), True, False),
    "the solver": (lambda t, m, e: setattr(m, "solver", Heun(steps=3)), True, False),
    "times of the sampler": (lambda t, m, e: setattr(m, "sampler", RenoiseSampler([60.0])), False, True),
    "noise of the sampler": (lambda t, m, e: setattr(m, "sampler", JumpSampler()), False, True),
    "level of the sampler": (lambda t, m, e: setattr(m, "sampler", RenoiseSampler(level=2.0)), False, True),
    "weights": (lambda t, m, e: m.student.layer.bias.data.add_(1.0), False, True),
    "a buffer": (lambda t, m, e: m.student.calls.add_(1.0), False, True),
    "the recipe": (lambda t, m, e: setattr(m, "recipe", {"class_path": "Other"}), True, True),
    "precision": (lambda t, m, e: setattr(t, "precision", "bf16-mixed"), True, True),
    "count": (lambda t, m, e: setattr(e, "count", 11), True, True),
    "seed": (lambda t, m, e: setattr(e, "seed", 11), True, True),
    "the suite": (lambda t, m, e: setattr(e.suite, "name", "other"), True, True),
    "the reference": (lambda t, m, e: setattr(e.suite, "reference_name", "other"), True, False),
    "conditions": (lambda t, m, e: setattr(t, "datamodule", None), True, True),
    "one call of the teacher": (lambda t, m, e: setattr(e, "teacher_once", False), True, False),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_kept_is_used_again_for_the_same_alone(what: str, tmp_path: Path):
    change, of_teacher, of_student = CHANGES[what]
    keys, places = [], []
    for changed in (False, True):
        trainer, made, evaluate = world(tmp_path), method(), Evaluate(Named(), count=10, seed=3)
        if changed:
            change(trainer, made, evaluate)
        evaluate.row = lambda *_: {}  # type: ignore[method-assign]
        evaluate.measure_teacher(trainer, made, 0.0)
        keys.append(evaluate._teacher_key)
        place = evaluate.unfinished(trainer, made, "student", None, evaluate.seed)
        assert place is not None
        places.append(place.folder.name)
    assert (keys[0] != keys[1], places[0] != places[1]) == (of_teacher, of_student)


def test_roles_and_steps_have_places_of_their_own(tmp_path: Path):
    made, evaluate = method(), Evaluate(Named(), count=10, seed=3)
    asked = [("student", None, 3), ("student", 2, 3), ("student", None, 4), ("teacher", None, 3), ("teacher", 1, 3)]
    places = {evaluate.unfinished(world(tmp_path), made, *one).folder.name for one in asked}  # type: ignore[union-attr]
    assert len(places) == len(asked)


def test_a_digest_sees_names_types_and_values():
    torch.manual_seed(0)
    one = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    swapped = torch.nn.ModuleDict({"a": one["b"], "b": one["a"]})
    nearly = copy.deepcopy(one)
    nearly["a"].weight.data[0, 0] += 1e-6
    digests = [
        weights_digest(network) for network in (one, copy.deepcopy(one), swapped, nearly, copy.deepcopy(one).double())
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 4
    alone, renamed = torch.nn.ModuleDict({"a": one["a"]}), torch.nn.ModuleDict({"c": one["a"]})
    assert weights_digest(alone) != weights_digest(renamed)


def test_the_teacher_is_measured_once(tmp_path: Path):
    evaluate, made, measured = Evaluate(Named(), count=10), method(), []
    evaluate.row = lambda *args: measured.append(args[2:4]) or {}  # type: ignore[method-assign, func-returns-value]
    for _ in range(2):
        evaluate.measure_teacher(world(tmp_path), made, 0.0)
    assert measured == [("teacher", None), ("teacher", 1)]
    made.solver = Heun(steps=5)
    evaluate.measure_teacher(world(tmp_path), made, 0.0)
    assert len(measured) == 4


# ---------------------------------------------------------------------- the best


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("min", [math.nan, 3.0, math.nan, 2.0, 4.0, -math.inf, 2.0], [False, True, False, True, False, False, False]),
        ("max", [math.nan, 3.0, math.nan, 2.0, 4.0, math.inf, 4.0], [False, True, False, False, True, False, False]),
    ],
)
def test_the_best_is_a_number(mode: Any, values: list[float], expected: list[bool], tmp_path: Path):
    checkpoint, trainer = Checkpoint(monitor="loss", mode=mode), world(tmp_path)
    assert not checkpoint.is_best(trainer), "nothing was logged"
    found = []
    for value in values:
        trainer.callback_metrics["loss"] = torch.tensor(value)
        found.append(checkpoint.is_best(trainer))
        assert not checkpoint.is_best(trainer), "one value is judged once"
    assert found == expected
    assert checkpoint.best == (2.0 if mode == "min" else 4.0)


@pytest.mark.parametrize("first", [True, False])
def test_the_first_rank_decides_what_is_best(first: bool, tmp_path: Path):
    checkpoint, trainer = Checkpoint(monitor="loss"), world(tmp_path, rank=1, size=2)
    asked: list[bool] = []
    trainer.strategy.broadcast = lambda value, *_: asked.append(value) or first
    checkpoint.best = 1.0
    for value in (2.0, 0.5):
        trainer.callback_metrics["loss"] = torch.tensor(value)
        assert checkpoint.is_best(trainer) is first
        checkpoint.best = 1.0
    assert asked == [False, True]


def test_ratios_leave_out_what_no_sampler_changes():
    values = {"frechet": 2.0, "count": 10.0, "frechet_floor": 0.1, "new": 1.0, "zero": 1.0}
    kinds = {name: kind_by_name(name) for name in values}
    assert ratios(values, {"frechet": 4.0, "count": 5.0, "frechet_floor": 0.2, "zero": 0.0}, kinds) == {"frechet": 0.5}


# ---------------------------------------------------------------------- ranks


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_the_samples_of_an_evaluation(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each sample once, of its own seed and condition; every rank calls the network equally often."""
    monkeypatch.setattr(evaluation_module, "stop_requested", lambda _: False)
    calls, taken = [], []
    for rank in range(size):
        made, evaluate = method(), Evaluate(Named(), count=7, batch_size=2, seed=100)
        asked: list[int] = []

        def sample(seeds: Any, condition: Any, *_: Any, asked: list[int] = asked) -> Any:
            asked.append(len(seeds))
            return torch.tensor(
                [[float(seed), float(label)] for seed, label in zip(seeds, condition["label"], strict=True)]
            )

        made.sample = sample  # type: ignore[method-assign]
        evaluate.suite.observe = lambda samples, condition, seeds: taken.extend(  # type: ignore[method-assign]
            zip(samples.tolist(), condition["label"].tolist(), seeds, strict=True)
        )
        evaluate.take_in(
            world(tmp_path, rank, size, state=SimpleNamespace(fn=TrainerFn.FITTING)), made, "student", None, 100
        )
        calls.append(asked)
    assert all(asked == calls[0] for asked in calls)
    assert sorted(seed for *_, seed in taken) == list(range(100, 107))
    for (seed_of, label_of), label, seed in taken:
        assert (seed_of, label_of) == (seed, label) and label == (seed - 100) % 4


def test_ranks_share_what_was_measured_before(tmp_path: Path):
    """Every file is taken in by one rank; files that hold what another holds are left out, newest first."""
    for name, indices in {"1-0": [0, 2], "1-1": [1, 3], "2-0": [3, 4]}.items():
        save_tensors(tmp_path / "evaluation" / "x" / f"{name}.safetensors", {"indices": torch.tensor(indices)})
    for size in (1, 2):
        taken: list[int] = []
        for rank in range(size):
            # What rank 0 finds is sent to the others.
            zero = Unfinished(world(tmp_path), SimpleNamespace(add_partial_state=lambda _: None), "x", 5.0)  # type: ignore
            found = zero.survey()
            strategy = SimpleNamespace(broadcast=lambda *_, found=found: found, barrier=lambda *_: None)
            suite: Any = SimpleNamespace(add_partial_state=lambda _: None)
            unfinished = Unfinished(world(tmp_path, rank, size, strategy=strategy), suite, "x", 5.0)
            assert unfinished.resume() == {0, 2, 3, 4}
            taken += unfinished.done
        assert sorted(taken) == [0, 2, 3, 4]
        assert unfinished._attempt == 3, "a number that no file has"


@pytest.mark.parametrize("size", [1, 2])
def test_samples_are_counted_over_all_ranks(size: int, tmp_path: Path):
    made, trainer = method(), world(tmp_path, 0, size, global_step=1)
    made.averages["ema"] = made.average_of_student()
    ema = EMA(rule=HalfLifeEMA(1.0, None))
    batch = {"x0": torch.zeros(8, 2)}
    ema.after_student_update(trainer, made, batch)
    assert ema.samples_seen == 8 * size
    throughput = Throughput()
    throughput._seen_updates = 1
    throughput.on_train_batch_end(trainer, made, None, batch, 0)
    assert throughput._samples == 8 * size


# ---------------------------------------------------------------------- health


def test_nothing_is_said_before_there_is_something_to_compare_with():
    health = Health(every_n_steps=1, patience=5)
    for step in range(1, 4):
        assert not list(health.findings({"student/grad_norm": 1000.0 if step == 3 else 1.0}, 0, step))
    kinds = [kind for kind, _ in health.findings({"student/grad_norm": 21.0}, 0, 4)]
    assert kinds == ["explosion of student/grad_norm"], "the median of 1, 1, 1000 is 1"


def test_findings_at_their_limits():
    def kinds(health: Health, bad: int = 0, step: int = 1, **values: float) -> list[str]:
        return [kind for kind, _ in health.findings({f"health/{k}": v for k, v in values.items()}, bad, step)]

    health = Health(every_n_steps=100, collapse=0.5, skipped=0.05, patience=10)
    assert kinds(health, sample_std=1.0) == []
    assert kinds(health, sample_std=0.6) == [] and "collapse" in kinds(health, sample_std=0.1)
    assert kinds(health, bad=5) == [] and kinds(health, bad=11) == ["skipped updates"]
    assert kinds(health, bad=11) == [], "only what is new counts"
    equal = {"score_gap": 1e-7, "sample_std": 1.0}
    assert "idle critic" not in kinds(health, 11, 9, **equal) and "idle critic" in kinds(health, 11, 10, **equal)


def test_averages_move_before_others_look(tmp_path: Path):
    trainer, ema, health, throughput = world(tmp_path), EMA(), Health(), Throughput()
    trainer.callbacks = [throughput, health, ema]
    ema.setup(trainer, method(), "fit")
    assert trainer.callbacks == [ema, throughput, health]
