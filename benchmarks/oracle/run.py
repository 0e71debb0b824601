"""One run: a method on a problem, from the problem's start and within its budget."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from benchmarks.oracle.cost import Evaluations, peak_bytes, resident_bytes
from benchmarks.oracle.problems import MANY_STEPS, Config, Problem, part
from benchmarks.oracle.recipes import Recipe, adam, cosine, model
from fastgen.callbacks import EMA, PowerEMA
from fastgen.callbacks.updates import AfterStudentUpdates
from fastgen.conditions import Condition
from fastgen.data.base import DistillationData
from fastgen.data.sources import Batch, BatchSource
from fastgen.denoisers.base import Denoiser
from fastgen.methods import Distiller
from fastgen.randomness import Draws
from fastgen.sampling.samplers import RenoiseSampler
from fastgen.sampling.solvers import DPMSolverPP, Euler, Heun, Solver, UniPC
from fastgen.storage.files import write_atomically

PROBE = 16
"""Batches that show what an update costs; every kind of turn comes up in them."""
EVALUATION_SEED = 10_000
VERSION = 1
"""Raise it when old rows must not be compared with new ones."""


def fingerprint(value: Any) -> str:
    """16 hex digits of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def run_fingerprint(problem: Problem, recipe: Recipe) -> str:
    """What a run depends on: problem, arguments, budget and how it is measured."""
    arguments = model(recipe, problem, "start", 1000)
    rest = [recipe.steps, recipe.levels(problem) if recipe.levels else None, recipe.pairs]
    return fingerprint([VERSION, problem.settings, arguments, rest, recipe.most_updates])


def instantiate(base: type, config: Config) -> Any:
    """The object that a configuration describes, by the command line's own parser."""
    import fastgen.denoisers
    import fastgen.extras  # noqa: F401
    from fastgen.methods.recipes import RecipeParser

    parser = RecipeParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "it")
    return parser.instantiate_classes(parser.parse_object({"it": config})).it


def build_network(config: Config) -> Denoiser:
    """A network or law with its weights."""
    network: Denoiser = instantiate(Denoiser, config)
    network.load_weights()
    return network.eval()


# ------------------------------------------------------------------ training


class MadePairs(DistillationData):
    """Pairs of noise and what the teacher's solver makes of it, in memory."""

    class Source(BatchSource):
        """The pairs."""

        def __init__(self, noise: Tensor, x0: Tensor, condition: dict[str, Tensor]) -> None:
            self.size = len(x0)
            self.tensors, self.condition = {"noise": noise, "x0": x0}, condition

        def batch(self, indices: Sequence[int]) -> Batch:
            rows = torch.as_tensor(indices)
            taken = {name: value[rows] for name, value in self.tensors.items()}
            return taken | {"condition": {k: v[rows] for k, v in self.condition.items()}, "encoded": True}

    def __init__(self, method: Distiller, count: int, condition: Condition, batch_size: int) -> None:
        super().__init__(batch_size)
        teacher = method.teacher
        assert teacher is not None
        noise = Draws(0, range(count), "pairs").normal("noise", teacher.sample_shape)
        rows = torch.arange(count).split(1000)
        with torch.no_grad():
            x0 = torch.cat(
                [method.solver.solve(teacher, noise[r], {k: v[r] for k, v in condition.items()}) for r in rows]
            )
        self.source = self.Source(noise, x0, condition)

    def make_sources(self) -> tuple[BatchSource, BatchSource]:
        return self.source, self.source


class Stop(Callback):
    """Ends a probe."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Trainer, method: Distiller, *_: Any) -> None:
        trainer.should_stop = method.iteration >= self.batches


class Count(Callback):
    """Counts from the first batch on."""

    def __init__(self) -> None:
        self.evaluations = Evaluations()

    def on_train_start(self, trainer: Trainer, method: Distiller) -> None:
        self.evaluations.watch(method)


class Curve(AfterStudentUpdates):
    """Measures the student at some updates; its time does not count."""

    def __init__(self, problem: Problem, recipe: Recipe, updates: int, evaluations: Evaluations) -> None:
        self.problem, self.recipe, self.evaluations = problem, recipe, evaluations
        # Progressive stages are so long too, and end before the next begins.
        points = problem.points
        self.due = {max(1, updates // points) * k for k in range(1, points)} | {updates}
        self.rows: list[dict[str, Any]] = []
        self.aside = 0.0

    def on_train_start(self, trainer: Trainer, method: Distiller) -> None:
        super().on_train_start(trainer, method)
        self.began, self.aside = time.process_time(), 0.0

    @property
    def seconds(self) -> float:
        """Processor seconds of training so far."""
        return time.process_time() - self.began - self.aside

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Any) -> None:
        if trainer.global_step not in self.due:
            return
        done, before = self.seconds, time.process_time()
        self.evaluations.active = False
        with torch.random.fork_rng(devices=[]):
            for steps in self.recipe.steps or (method.evaluations("average"),):
                values = self.problem.judge.values(student_samples(method, self.problem, self.recipe, steps))
                self.rows.append({"updates": trainer.global_step, "seconds": round(done, 2), "steps": steps} | values)
        self.evaluations.active = True
        self.aside += time.process_time() - before


def student_samples(method: Distiller, problem: Problem, recipe: Recipe, steps: int) -> Tensor:
    """Samples of the average with ``steps`` calls; where calls have levels, those of ``steps``."""
    own = method.sampler
    if recipe.levels is not None:
        levels = recipe.levels(problem)
        method.sampler = RenoiseSampler([levels[i] for i in {1: (0,), 2: (0, 2), 4: (0, 1, 2, 3)}[steps]])
    try:
        return torch.cat(
            [
                method.sample(
                    [EVALUATION_SEED + i for i in rows], problem.judge.condition(rows), None if recipe.levels else steps
                )
                for rows in batches(problem.judge.count)
            ]
        )
    finally:
        method.sampler = own


def batches(count: int, size: int = 500) -> list[range]:
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def fit(method: Distiller, data: DistillationData, updates: int, *callbacks: Callback) -> Trainer:
    """Train on one core without output."""
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        max_steps=updates,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(method, data)
    return trainer


def averages() -> list[EMA]:
    """The average that is sampled, alike for all."""
    return [EMA(rule=PowerEMA(0.1))]


def data_of(problem: Problem) -> DistillationData:
    config = part(problem.data["class_path"], **problem.data["init_args"], batch_size=problem.batch_size)
    return instantiate(DistillationData, config)


def train(problem: Problem, recipe: Recipe, start: str | None) -> dict[str, Any]:
    """Probe, train, measure on the way."""

    def build(updates: int) -> Distiller:
        return instantiate(Distiller, model(recipe, problem, start, updates))

    spent = 0
    if recipe.pairs:
        maker = build(1)
        maker.configure_model()
        counter = Evaluations().watch(maker)
        calls = maker.solver.evaluations(maker.solver.steps) * (1 if maker.solver.guidance == 1.0 else 2)
        count = int(recipe.pairs * problem.budget / calls)
        data: DistillationData = MadePairs(maker, count, problem.judge.pair_condition(count), problem.batch_size)
        spent = counter.count
    else:
        data = data_of(problem)
    memory, stop = resident_bytes(), min(PROBE, recipe.most_updates or PROBE)
    for length in (1000, PROBE):  # in a long training the student may rest for longer than the probe
        cost = Count()
        if updates := fit(build(length), data, -1, *averages(), cost, Stop(stop)).global_step:
            break
    memory = max(0, peak_bytes() - memory)
    each = cost.evaluations.count / updates
    updates = min(recipe.most_updates or math.inf, (problem.budget - spent) / each)
    updates = max(1, int(updates))
    cost = Count()
    curve = Curve(problem, recipe, updates, cost.evaluations)
    fit(build(updates), data, updates, *averages(), cost, curve)
    return {
        "updates": updates,
        "evaluations": spent + cost.evaluations.count,
        "evaluations_per_update": cost.evaluations.count / updates / problem.batch_size,
        "pair_evaluations": spent,
        "seconds": round(curve.seconds, 2),
        "seconds_per_update": curve.seconds / updates,
        "peak_memory_mib": memory / 2**20,
        "curve": curve.rows,
        "rows": last_of_each(curve.rows),
    }


def last_of_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of every number of steps: for progressive stages the end of each."""
    return sorted({row["steps"]: row for row in rows}.values(), key=lambda row: row["steps"])


def run(problem: Problem, name: str, recipe: Recipe, start: str | None) -> dict[str, Any]:
    """The record of a run; a failure is one too."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    record: dict[str, Any] = {"problem": problem.name, "name": name, "method": recipe.method}
    record["fingerprint"] = run_fingerprint(problem, recipe)
    began = time.perf_counter()
    reason = dict(recipe.without).get(problem.name)
    try:
        record |= {"left_out": reason} if reason else train(problem, recipe, start)
    except Exception as error:  # a failure is a result
        record["failure"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    for row in record.get("rows", []):
        if not all(math.isfinite(value) for value in row.values()):
            record["failure"] = f"samples of {row['steps']} calls are not finite"
    record["wall_seconds"] = round(time.perf_counter() - began, 1)
    return record


# ------------------------------------------------------------------ start and teacher


def make_start(problem: Problem, path: Path) -> None:
    """Train the network that every student begins as; of the teacher's own weights there is nothing to train."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    from safetensors.torch import save_file

    method: Distiller = instantiate(
        Distiller,
        part(
            "TeacherTraining",
            student=problem.student(None),
            objective=part("DenoisingLoss", weight=part("EDMWeight", sigma_data=problem.sigma_data)),
            time=part("LogNormalLevel", mean=-0.6, std=1.6),
            student_optimizer=adam(2e-3),
            student_lr_scheduler=cosine(problem.start_updates),
        ),
    )
    fit(method, data_of(problem), problem.start_updates, EMA(rule=PowerEMA(0.1)))
    weights = {name: value.contiguous() for name, value in method.network("average").state_dict().items()}
    write_atomically(path, lambda temporary: save_file(weights, temporary))


def start_fingerprint(problem: Problem) -> str:
    settings = problem.settings
    return fingerprint([VERSION, *(settings[k] for k in ("network", "data", "sigma_data", "start_updates"))])


def teachers_fingerprint(problem: Problem) -> str:
    settings = problem.settings
    solvers = [f"{type(solver).__name__} {solver.steps}" for solver in teachers_solvers(problem.guidance)]
    known = [settings[k] for k in ("teacher", "judge", "guidance")]
    return fingerprint([VERSION, *known, start_fingerprint(problem), solvers])


def measure_solver(problem: Problem, denoiser: Denoiser, solver: Solver) -> dict[str, Any]:
    """A row of a solver: the same seeds and conditions as of the students."""
    samples, codec = [], denoiser.make_codec()
    with torch.no_grad():
        for rows in batches(problem.judge.count):
            noise = Draws(0, [EVALUATION_SEED + i for i in rows], "sample").normal("noise", denoiser.sample_shape)
            condition = codec.encode_condition(problem.judge.condition(rows))
            samples.append(codec.decode(solver.solve(denoiser, noise, condition)).float())
    values = problem.judge.values(torch.cat(samples))
    calls = solver.evaluations(solver.steps)
    return {"solver": type(solver).__name__, "steps": solver.steps, "calls": calls} | values


def teachers_solvers(guidance: float) -> list[Solver]:
    """The solvers that people use, at few calls and at many."""
    few: list[Solver] = [kind(k, guidance) for kind in (Euler, DPMSolverPP, UniPC) for k in (1, 2, 4, 8)]
    return [*few, *(Heun(k, guidance) for k in (2, 3, MANY_STEPS))]


def teachers(problem: Problem, start: str | None) -> dict[str, Any]:
    """The teacher, and the network that students begin as, at many and at few steps."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    solvers = teachers_solvers(problem.guidance)
    asked = {"teacher": problem.teacher}
    if start is not None:
        asked["start"] = problem.student(start)
    rows = {name: [measure_solver(problem, build_network(c), s) for s in solvers] for name, c in asked.items()}
    return {
        "problem": problem.name,
        "name": "teacher",
        "fingerprint": teachers_fingerprint(problem),
        "title": problem.title,
        "distance": problem.judge.distance,
        "count": problem.judge.count,
        "floor": problem.judge.floor(),
        **rows,
        **problem.further_rows(),
    }
