"""Is my run healthy?"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from fastgen import checks
from fastgen.callbacks.movement import Movement
from fastgen.callbacks.trainer_access import distiller, log_folder
from fastgen.callbacks.updates import AfterStudentUpdates, is_due
from fastgen.checkpoints.restoring import count_of, restoring
from fastgen.distiller.run_facts import RunFacts

if TYPE_CHECKING:
    from fastgen.distiller.base import Distiller

MEMORY = 100
"""Readings that a running median covers."""
ENOUGH = 3
"""Readings before a median says anything."""


class Health(AfterStudentUpdates):
    """Watches what the method logs and says in one sentence what is wrong and what to try.

    It knows explosions, collapse, numbers that are none, critics that idle, updates that are skipped, that move nothing
    or that climb. Each kind of event is printed once; all of them go to ``<log_dir>/health.jsonl``, and the end of the
    run gets a verdict. (A run whose gradients are never finite is stopped by the method itself, see ``max_bad_steps``.)

    Args:
        every_n_steps: Student updates between readings; reading waits for the GPU.
        explosion: A gradient norm or gap this many times its running median is an event.
        collapse: A standard deviation of the samples that losses judge below this fraction of the first readings is an
            event.
        skipped: More than this fraction of skipped updates between readings is an event.
        patience: Student updates after which a critic must differ from the teacher.
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        explosion: float = 20.0,
        collapse: float = 0.25,
        skipped: float = 0.05,
        patience: int = 200,
    ) -> None:
        checks.whole(self, every_n_steps=every_n_steps, patience=patience)
        checks.at_least(self, 1.0, explosion=explosion)
        checks.fraction(self, collapse=collapse, skipped=skipped)
        self.every_n_steps = every_n_steps
        self.explosion = explosion
        self.collapse = collapse
        self.skipped = skipped
        self.patience = patience
        self.events: Counter[str] = Counter()
        self._history: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MEMORY))
        self._first_std: list[float] = []
        self._bad_before = 0
        self.movement = Movement()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        method = distiller(module)
        super().on_train_start(trainer, method)
        self._bad_before = method.bad_steps_total

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        method = distiller(module)
        if is_due(trainer.global_step + 1, self.every_n_steps):
            self.movement.before(method)

    def after_student_update(self, trainer: Trainer, method: Distiller, batch: Mapping[str, Any]) -> None:
        if not is_due(trainer.global_step, self.every_n_steps):
            return
        folder = log_folder(trainer)
        self.movement.after(method)
        if not trainer.is_global_zero:
            return
        values = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.endswith("/grad_norm") or name.startswith("health/")
        }
        found = (*self.findings(values, method.bad_steps_total, trainer.global_step), *self.directions())
        for kind, sentence in found:
            self.tell(folder / "health.jsonl", trainer.global_step, kind, sentence)

    def without_effect(self, run: RunFacts) -> Iterator[str]:
        """What of it does nothing in a run."""
        if run.ends_before(self.every_n_steps - 1):
            yield (
                f"Health reads every {self.every_n_steps} student updates, but the run ends at {run.max_steps}: it "
                "sees nothing; lower Health.every_n_steps."
            )

    def directions(self, at_end: bool = False) -> Iterator[tuple[str, str]]:
        """Which roles do not move, or move uphill."""
        for role in self.movement.of_roles(self.movement.still, at_end):
            sentence = f"the updates change no weight of the {role}; raise its learning rate"
            yield f"nothing moves ({role})", sentence
        for role in self.movement.of_roles(self.movement.uphill, at_end):
            sentence = f"the updates of the {role} follow its gradient uphill; mend its optimizer (maximize: false)"
            yield f"loss rises ({role})", sentence

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        folder = log_folder(trainer)
        for kind, sentence in self.directions(at_end=True):
            if trainer.is_global_zero and not self.events[kind]:
                self.tell(folder / "health.jsonl", trainer.global_step, kind, sentence)
        rank_zero_info(f"Health of the run: {self.verdict()}.")

    def findings(self, values: Mapping[str, float], bad_steps: int, step: int) -> Iterator[tuple[str, str]]:
        """What is wrong with one reading: kinds of events and sentences.

        Args:
            values: Logged numbers by name.
            bad_steps: Updates skipped so far.
            step: Student updates so far.
        """
        gap, std = values.get("health/score_gap"), values.get("health/sample_std")
        for name, value in values.items():
            if not math.isfinite(value):
                if not name.endswith("/grad_norm"):  # such an update is skipped, and counted below
                    yield f"{name} is not finite", f"{name} is {value}; {mend(name)}"
                continue
            past = self._history[name]
            if name != "health/sample_std" and len(past) >= ENOUGH:
                median = statistics.median(past)
                if value > self.explosion * median and median > 0:
                    times = f"{value / median:.0f} times its median"
                    yield f"explosion of {name}", f"{name} is {value:.3g}, {times}; {mend(name)}"
            past.append(value)
        if std is not None and math.isfinite(std):
            if len(self._first_std) < ENOUGH:
                self._first_std.append(std)
            start = statistics.median(self._first_std)
            if std < self.collapse * start:
                yield (
                    "collapse",
                    f"the samples have lost their variety (standard deviation {std:.3g}, {start:.3g} at the start); "
                    "lower the student's learning rate or update what judges them more often",
                )
        idle = gap is not None and std is not None and math.isfinite(std) and gap < 1e-5 * max(std, 1e-12)
        if idle and step >= self.patience:
            yield "idle critic", "the critic still equals the teacher; raise the critic's learning rate"
        new = bad_steps - self._bad_before
        if new > self.skipped * self.every_n_steps:
            yield (
                "skipped updates",
                f"{new} updates were skipped since the last reading because their gradient was not finite; lower the "
                "learning rates or set gradient_clip",
            )
        self._bad_before = bad_steps

    def tell(self, path: Path, step: int, kind: str, sentence: str) -> None:
        """Record an event; print it if it is the first of its kind."""
        if self.events[kind] == 0:
            rank_zero_warn(f"Health, student update {step}: {sentence}.")
        self.events[kind] += 1
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"student_updates": step, "kind": kind, "sentence": sentence}) + "\n")

    def verdict(self) -> str:
        """``healthy``, or what happened and how often."""
        return ", ".join(f"{kind} ({count}x)" for kind, count in self.events.items()) or "healthy"

    def state_dict(self) -> dict[str, Any]:
        return {"events": dict(self.events), "first_std": list(self._first_std)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        with restoring("Health"):
            self.events = Counter({str(kind): count_of(state_dict["events"], kind) for kind in state_dict["events"]})
            self._first_std = list(state_dict["first_std"])


def mend(name: str) -> str:
    """What to try when a number explodes."""
    if name.endswith("/grad_norm"):
        return f"set gradient_clip or lower the learning rate of the {name.split('/')[0]}"
    if name == "health/score_gap":
        return "the critic has lost the student: update it more often or raise its learning rate"
    return "the samples drift away from the teacher: lower the student's learning rate"
