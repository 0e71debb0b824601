"""What an update costs beside the network passes that its mathematics needs: DMD2, with a GAN, MeanFlow and sCM.

    nice -n -5 python -m benchmarks.update_cost         # some ten minutes on one CPU core

Each method trains through Lightning's Trainer as ``fastgen fit`` does. After every batch the bare passes of the same
networks run on the same samples, so both see the same machine. A student update comes with its critic updates:

| method   | passes of a student update                                                                             |
|----------|--------------------------------------------------------------------------------------------------------|
| DMD2     | student forward and backward, guided teacher (two rows per sample) and critic forward; then the critic |
|          | forward and backward on those samples, and four times more on samples of a student forward             |
| MeanFlow | forward-mode derivative on the rows with s < t, student forward and backward                           |
| sCM      | teacher forward, forward-mode derivative, student forward and backward                                 |

With a GAN on the teacher's features, judged where the scores are compared, each turn is a row of its own:

| turn           | passes                                                                                          |
|----------------|-------------------------------------------------------------------------------------------------|
| student        | student forward and backward, critic forward, teacher forward with a graph up to the features,  |
|                | heads forward and backward, and back through the layers before the features                     |
| guided student | the same, and the teacher forward without its condition                                         |
| critic         | student forward, critic forward and backward, the layers of the teacher before the features for |
|                | real and generated samples, heads forward and backward                                          |

The time of an update is everything between two sets of passes: the loop, data, random numbers, losses, clipping,
optimizers, logging. The optimizers' own steps, which are no pass, are in it and also shown apart; there is no EMA. The
ratio is the median over updates of (update / its passes), in CPU seconds of the process, which other work on the
machine disturbs less than the clock. Written to ``benchmarks/results/``: ``update_cost.json``, ``update_cost.md``. Exit
code 1 if a ratio is above the bar.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastgen.conditions import Guidance
from fastgen.data.base import DistillationData
from fastgen.data.sources import BatchSource, TensorSource
from fastgen.denoisers.base import Denoiser
from fastgen.denoisers.networks.dit import DiT
from fastgen.denoisers.networks.unet import UNet
from fastgen.denoisers.wrappers.features import tap
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras import GAN
from fastgen.methods import DMD2, SCM, Distiller, MeanFlow
from fastgen.processes import EDM, RectifiedFlow

RESULTS = Path(__file__).parent / "results"
BAR = 1.15
WARM_UP = 2
CLASSES = 10
SHAPE = (3, 32, 32)
NETWORKS: dict[str, Callable[[], Denoiser]] = {
    "U-Net": partial(
        UNet, EDM(), 3, 32, width=48, multipliers=(1, 2, 2), attention_resolutions=(8,), num_classes=CLASSES
    ),
    "DiT": partial(DiT, RectifiedFlow(), "velocity", 3, 32, 4, width=192, depth=6, num_classes=CLASSES),
}


class Noise(DistillationData):
    """Labelled images of noise: what they show costs nothing."""

    sample_kind = "image"
    num_classes = CLASSES

    def make_sources(self) -> tuple[BatchSource, BatchSource]:
        images = torch.randn(256, *SHAPE, generator=torch.Generator().manual_seed(0))
        source = TensorSource(images, torch.arange(256) % CLASSES)
        return source, source


def derivative(network: Denoiser, x: Tensor, t: Tensor, condition: Mapping[str, Tensor], s: Tensor | None) -> None:
    """One forward pass that carries a tangent."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        return network.predict(x, t, condition, s)

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        torch.func.jvp(field, (x, t), (torch.ones_like(x), torch.ones_like(t)))


def train(network: Denoiser, x: Tensor, t: Tensor, condition: Mapping[str, Tensor], s: Tensor | None = None) -> None:
    """Forward and backward."""
    network.predict(x, t, condition, s).backward(torch.ones_like(x))


def dmd2_passes(method: DMD2, part: MicroBatch) -> Callable[[], None]:
    student, critic, teacher, condition = method.student, method.critic, method.teacher, part.condition
    x = torch.randn(len(part.draws), *SHAPE)
    t = torch.full((len(x),), 0.5, dtype=torch.float64)
    both = {name: torch.cat([value, value]) for name, value in condition.items()}
    student_turn = "student" in method.turns(method.iteration - 1)

    def run() -> None:
        if student_turn:
            sample = student.predict(x, t, condition)
            with torch.no_grad():
                teacher.predict(torch.cat([x, x]), torch.cat([t, t]), both)
                critic.predict(x, t, condition)
            sample.backward(x)
        else:
            with torch.no_grad():
                student.predict(x, t, condition)
        train(critic, x, t, condition)

    return run


def gan_passes(method: DMD2, part: MicroBatch) -> Callable[[], None]:
    student, critic, teacher, condition = method.student, method.critic, method.teacher, part.condition
    x = torch.randn(len(part.draws), *SHAPE)
    t = torch.full((len(x),), 0.5, dtype=torch.float64)
    both = {name: torch.cat([value, value]) for name, value in condition.items()}
    paths, heads = [teacher.feature_path], method.each_extra()[0].heads

    def student_turn() -> None:
        sample = student.predict(x, t, condition)
        with tap(teacher, paths, "without graph") as features:
            teacher(sample, t, condition)
        with torch.no_grad():
            if method.guidance.teacher != 1.0:
                teacher.predict(x, t, condition)
            critic.predict(x, t, condition)
        heads.requires_grad_(False)
        (heads[0](features[paths[0]]).sum() + (sample * x).sum()).backward()
        heads.requires_grad_(True)

    def critic_turn() -> None:
        with torch.no_grad():
            student.predict(x, t, condition)
        train(critic, x, t, condition)
        with tap(teacher, paths, "left out") as features:
            teacher(torch.cat([x, x]), torch.cat([t, t]), both)
        heads[0](features[paths[0]]).sum().backward()

    return student_turn if method.turns(method.iteration - 1) == ("student",) else critic_turn


def mean_flow_passes(method: MeanFlow, part: MicroBatch) -> Callable[[], None]:
    state = method.state(part)
    t, s = (time.clamp(min=1e-3) for time in (state.times.t, state.times.s))
    rows = state.times.s < state.times.t
    some = {name: value[rows] for name, value in state.condition.items()}

    def run() -> None:
        if rows.any():
            derivative(method.student, state.x_t[rows], t[rows], some, s[rows])
        train(method.student, state.x_t, t, state.condition, s)

    return run


def scm_passes(method: SCM, part: MicroBatch) -> Callable[[], None]:
    state = method.state(part)
    assert method.teacher is not None
    teacher, t = method.teacher, torch.full((len(state.x_t),), 0.5, dtype=torch.float64)

    def run() -> None:
        with torch.no_grad():
            teacher.predict(state.x_t, t, state.condition)
        derivative(method.student, state.x_t, t, state.condition, None)
        train(method.student, state.x_t, t, state.condition)

    return run


def with_gan(teacher: Callable[[], Denoiser], guidance: Guidance = Guidance()) -> DMD2:
    """DMD2 with turns in iterations of their own and a discriminator on the teacher's bottleneck."""
    return DMD2(
        teacher=teacher,
        guidance=guidance,
        schedule=UpdateSchedule(exclusive=True),
        extras=[GAN(features="teacher", at_scores=True)],
    )


METHODS: dict[str, tuple[Callable[..., Distiller], Callable[[Any, MicroBatch], Callable[[], None]]]] = {
    "DMD2": (partial(DMD2, guidance=Guidance(teacher=2.0)), dmd2_passes),
    "DMD2 + GAN, student": (with_gan, gan_passes),
    "DMD2 + GAN, guided student": (partial(with_gan, guidance=Guidance(teacher=2.0)), gan_passes),
    "DMD2 + GAN, critic": (with_gan, gan_passes),
    "MeanFlow": (MeanFlow, mean_flow_passes),
    "sCM": (SCM, scm_passes),
}


class Stopwatch(Callback):
    """Times whole student updates as they happen and, after each batch, its bare passes.

    Args:
        passes: The passes of one batch.
        updates: Student updates to measure; as many as ``WARM_UP`` go before.
        turn: The role whose iterations are measured one by one; ``None`` for student updates with all that goes with
            them.
    """

    def __init__(
        self, passes: Callable[[Any, MicroBatch], Callable[[], None]], updates: int, turn: str | None = None
    ) -> None:
        self.passes = passes
        self.updates = updates
        self.turn = turn
        self.rows: list[dict[str, float]] = []
        self.row = {"update": 0.0, "optimizer": 0.0, "passes": 0.0}

    def on_train_start(self, trainer: Trainer, method: Distiller) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(lambda *_: self.add("optimizer", -time.process_time()))
            optimizer.register_step_post_hook(lambda *_: self.add("optimizer", time.process_time()))
        self.began = time.process_time()

    def add(self, name: str, seconds: float) -> None:
        self.row[name] += seconds

    def on_train_batch_end(self, trainer: Trainer, method: Distiller, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.add("update", time.process_time() - self.began)
        (part,) = method.parts("train", batch, method.iteration - 1)
        run = self.passes(method, part)
        began = time.process_time()
        run()
        self.add("passes", time.process_time() - began)
        method.zero_grad(set_to_none=True)
        # The next batch begins another student update.
        if self.turn is None and "student" in method.turns(method.iteration):
            self.rows.append(self.row)
            self.row = dict.fromkeys(self.row, 0.0)
        elif self.turn is not None:
            if self.turn in method.turns(method.iteration - 1):
                self.rows.append(self.row)
            self.row = dict.fromkeys(self.row, 0.0)
        trainer.should_stop = len(self.rows) == WARM_UP + self.updates
        self.began = time.process_time()


def measure(network: str, name: str, updates: int, batch_size: int) -> dict[str, Any]:
    """Train one method and summarise what the stopwatch saw."""
    make, passes = METHODS[name]
    method = make(teacher=NETWORKS[network])
    watch = Stopwatch(passes, updates, name.split()[-1] if "," in name else None)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        logger=False,
        callbacks=[watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(method, Noise(batch_size=batch_size))
    rows = watch.rows[WARM_UP:]
    result = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    ratios = sorted(row["update"] / row["passes"] for row in rows)
    return {**result, "ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}


def table(results: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# What an update costs",
        "",
        f"`{results['command']}`, {results['date']}, {results['machine']}, "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
        "",
        "CPU seconds of a whole student update (with its critic updates) and of the bare network passes that its "
        f"mathematics needs, batch {results['batch_size']} at 3x32x32, medians of {results['updates']} in one run. "
        f"The ratio is the median of (update / passes); the bar is {BAR}.",
        "",
        "| method | network | update | of that, optimizers' steps | passes | update / passes | lowest to highest |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in results["rows"].items():
        name, network = key.split("/")
        lines.append(
            f"| {name} | {network} | {row['update']:.3f} | {row['optimizer']:.3f} | {row['passes']:.3f} | "
            f"{row['ratio']:.3f} | {row['lowest']:.2f}-{row['highest']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=9, help="student updates to measure per row")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--only", nargs="*", default=[], help="rows, e.g. MeanFlow/DiT; default all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.update_cost", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, 1 thread, {platform.system()}",
        "versions": {name: version(name).split("+")[0] for name in ("torch", "lightning")},
        "updates": arguments.updates,
        "batch_size": arguments.batch_size,
        "rows": {},
    }
    for key in arguments.only or [f"{name}/{network}" for name in METHODS for network in NETWORKS]:
        name, network = key.split("/")
        results["rows"][key] = row = measure(network, name, arguments.updates, arguments.batch_size)
        print(key, {k: round(v, 4) for k, v in row.items()}, flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "update_cost.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "update_cost.md").write_text(table(results), encoding="utf-8")
    print(table(results))
    return int(any(row["ratio"] > BAR for row in results["rows"].values()))


if __name__ == "__main__":
    sys.exit(main())
