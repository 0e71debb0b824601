"""What a DMD2 + GAN update costs here and in NVlabs/FastGen: ``python -m benchmarks.beside_fastgen DIR``.

``DIR`` is a checkout of https://github.com/NVlabs/FastGen whose requirements can be imported; nothing of it is
imported otherwise. Both train its EDM U-Net (``--channels`` 32, 32x32, ten classes) from the same weights, in fp32 on
one thread, with AdamW, one student call, and a discriminator on the last encoder blocks of the teacher, which judges
where the scores are compared, as FastGen's configuration for CIFAR-10 has it; the heads are each library's own. Each
trains in a process of its own, as it does in use, and their updates take turns:

- ours is a whole iteration of Lightning's loop: data, random numbers, losses, clipping, optimizers, logging;
- theirs is ``single_train_step``, backward, steps of optimizers and schedules, ``zero_grad``; no loop, no loader, no
  callbacks (theirs clip the gradient), so less than a run of theirs.

As in DMD2's own code, our critic learns from the samples of the student's turn where there was one; FastGen's makes
samples for each of its updates. The row ``critic, samples of its own`` has ours do so too. Losses, noise and networks
are the same in all rows.

The ratio is the median over updates of (ours / theirs), in CPU seconds of each process, those of the system included,
which are also shown apart. The multiplications of the networks' layers, which no other work on the machine disturbs,
are counted in the first updates. Written to ``benchmarks/results/``: ``beside_fastgen.json``, ``beside_fastgen.md``.
Exit code 1 if a ratio is above the bar, except in the row that makes the very same passes in the very same turns.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib
import json
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.update_cost import CLASSES, RESULTS, SHAPE, WARM_UP, Noise
from fastgen.conditions import Condition, Guidance
from fastgen.denoisers.base import Denoiser
from fastgen.distiller.micro_batch import MicroBatch
from fastgen.distiller.schedule import UpdateSchedule
from fastgen.extras import GAN
from fastgen.methods import DMD2
from fastgen.processes import EDM

BAR = 0.95
SHARED = UpdateSchedule(critic_first=False, reuse_rollout=True)
"""Student, then critic on the same samples: the schedule of DMD2, with as many updates of each."""
SAME = "critic, samples of its own"
LAYERS = [f"network.model.enc.{side}x{side}_block3" for side in (32, 16, 8)]


@cache  # imported twice, it would set up its log twice, which it cannot
def theirs(checkout: Path, *names: str) -> list[ModuleType]:
    """Modules of a package that is called ``fastgen`` as well; afterwards that name is ours again."""

    def take() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "fastgen"}

    own = take()
    sys.path.insert(0, str(checkout))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(checkout))
        take()
        sys.modules.update(own)


class EDMNetwork(Denoiser):
    """Their EDM U-Net as a denoiser of ours."""

    num_classes = CLASSES

    def __init__(self, network: nn.Module) -> None:
        super().__init__(EDM(), "x0", SHAPE)
        self.network = copy.deepcopy(network)

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition, s: Tensor | None = None) -> Tensor:
        one_hot = F.one_hot(condition["label"], CLASSES + 1)[:, :CLASSES].to(x_t.dtype)
        return self.network(x_t, t, condition=one_hot, fwd_pred_type="x0")

    def null_condition(self, condition: Condition) -> Condition:
        return {"label": torch.full_like(condition["label"], CLASSES)}


class Peer:
    """Their model, update by update.

    Args:
        checkout: Folder of the repository.
        channels: Base channels of the U-Net, whose levels have twice as many.
        batch_size: Samples per update.
        guidance: Scale of the teacher's guidance; ``None`` for none.
    """

    def __init__(self, checkout: Path, channels: int, batch_size: int, guidance: float | None) -> None:
        configs, utils, methods = theirs(
            checkout, "fastgen.configs.methods.config_dmd2", "fastgen.configs.config_utils", "fastgen.methods"
        )
        from loguru import logger

        logger.remove()
        config = configs.create_config().model
        net = [f"model_channels={channels}", "augment_dim=0"]
        config.net = utils.override_config_with_opts(config.net, ["-", *net])
        config.discriminator.in_channels = 2 * channels
        config.device, config.precision, config.pretrained_model_path = "cpu", "float32", ""
        config.student_update_freq = 2  # as many of each turn
        config.guidance_scale = guidance
        torch.manual_seed(0)
        self.model = methods.DMD2Model(config)
        # Its last layers begin at 1e-5, which leaves the gradients of all others denormal; a trained network's are not.
        for module in self.model.teacher.modules():
            if hasattr(module, "weight") and isinstance(module.weight, nn.Parameter) and module.weight.ndim == 4:
                nn.init.kaiming_normal_(module.weight)
        for network in (self.model.net, self.model.fake_score):
            network.load_state_dict(self.model.teacher.state_dict())
        self.model.on_train_begin()
        self.model.init_optimizers()
        self.data = {
            "real": torch.randn(batch_size, *SHAPE),
            "condition": F.one_hot(torch.arange(batch_size) % CLASSES, CLASSES).float(),
            "neg_condition": torch.zeros(batch_size, CLASSES),
        }

    def update(self, iteration: int) -> None:
        """The student's turn if ``iteration`` is even, else the critic's."""
        losses, _ = self.model.single_train_step(self.data, iteration)
        losses["total_loss"].backward()
        self.model.optimizers_schedulers_step(iteration)
        self.model.optimizers_zero_grad(iteration)


class Cost(NamedTuple):
    """What a piece of work cost: CPU seconds, those of them in the system, and floating-point operations.

    The operations are counted if asked for; then the times mean nothing.
    """

    seconds: float
    system: float
    operations: int


class Meter:
    """Costs of pieces of work that follow one another."""

    def __init__(self) -> None:
        self.counting = ExitStack()
        self.counter: FlopCounterMode | None = None

    def begin(self, count: bool) -> None:
        """A piece begins; ``count`` its operations."""
        self.counter = self.counting.enter_context(FlopCounterMode(display=False)) if count else None
        self.began = resource.getrusage(resource.RUSAGE_SELF)

    def end(self) -> Cost:
        """It is done."""
        now, before = resource.getrusage(resource.RUSAGE_SELF), self.began
        system = now.ru_stime - before.ru_stime
        self.counting.close()
        operations = self.counter.get_total_flops() if self.counter else 0
        return Cost(now.ru_utime - before.ru_utime + system, system, operations)


def prepare() -> None:
    """As both processes compute."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def serve(pipe: Connection, *setting: Any) -> None:
    """A process of theirs: for ``(iteration, count)`` it makes an update and says what that cost."""
    prepare()
    peer, meter = Peer(*setting), Meter()
    while (request := pipe.recv()) is not None:
        iteration, count = request
        meter.begin(count)
        peer.update(iteration)
        pipe.send(tuple(meter.end()))


class InTurns(DMD2):
    """DMD2 that says when a role was updated."""

    after: Callable[[str], None]

    def update(self, role: str, parts: Sequence[MicroBatch]) -> None:
        super().update(role, parts)
        self.after(role)


class TakeTurns(Callback):
    """After each update of ours, the same of theirs; what is between two updates belongs to the later."""

    def __init__(self, pipe: Connection, updates: int) -> None:
        self.pipe = pipe
        self.updates = updates
        self.meter = Meter()
        self.pairs: dict[str, list[tuple[Cost, Cost]]] = {"student": [], "critic": []}

    def on_train_start(self, trainer: Trainer, method: InTurns) -> None:
        method.after = self.updated
        self.meter.begin(count=True)

    def updated(self, role: str) -> None:
        """A role of ours was updated; now theirs."""
        ours, pairs = self.meter.end(), self.pairs[role]
        self.pipe.send((2 * len(pairs) + (role == "critic"), not pairs))
        pairs.append((ours, Cost(*self.pipe.recv())))
        self.meter.begin(count=not all(self.pairs.values()))

    def on_train_batch_end(self, trainer: Trainer, method: InTurns, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = min(map(len, self.pairs.values())) == WARM_UP + self.updates


def measure(
    arguments: argparse.Namespace, guidance: float | None, schedule: UpdateSchedule
) -> dict[str, dict[str, float]]:
    """Train both and summarise each turn."""
    setting = arguments.checkout, arguments.channels, arguments.batch_size, guidance
    context = multiprocessing.get_context("spawn")
    pipe, theirs_end = context.Pipe()
    process = context.Process(target=serve, args=(theirs_end, *setting), daemon=True)
    process.start()
    adamw = partial(torch.optim.AdamW, lr=1e-4)
    method = InTurns(
        teacher=partial(EDMNetwork, Peer(*setting).model.teacher),
        guidance=Guidance(teacher=guidance or 1.0),
        schedule=schedule,
        student_optimizer=adamw,
        critic_optimizer=adamw,
        extras=[GAN(1e-3, 1.0, features="teacher", layer=LAYERS, at_scores=True)],
    )
    turns = TakeTurns(pipe, arguments.updates)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        logger=False,
        callbacks=[turns],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(method, Noise(batch_size=arguments.batch_size))
    pipe.send(None)
    process.join()
    rows = {turn: summary(pairs) for turn, pairs in turns.pairs.items()}
    for turn, row in rows.items():
        print(turn, guidance, schedule, {name: round(value, 4) for name, value in row.items()}, flush=True)
    return rows


def summary(pairs: Sequence[tuple[Cost, Cost]]) -> dict[str, float]:
    """Medians of the updates after the first ones, operations of the very first."""
    first, timed = pairs[0], pairs[WARM_UP:]
    ratios = sorted(ours.seconds / other.seconds for ours, other in timed)
    row: dict[str, float] = {}
    for number, name in enumerate(("ours", "theirs")):
        row[name] = statistics.median(pair[number].seconds for pair in timed)
        row[f"{name}, system"] = statistics.median(pair[number].system for pair in timed)
        row[f"{name}, operations"] = first[number].operations
    return row | {"ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}


def table(results: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# An update beside NVlabs/FastGen",
        "",
        f"`{results['command']}`, {results['date']}, FastGen {results['commit']}, {results['machine']}, "
        + ", ".join(f"{k} {v}" for k, v in results["versions"].items()),
        "",
        f"CPU seconds of one update of DMD2 with a discriminator on the teacher's features, on FastGen's EDM U-Net "
        f"({results['channels']} base channels, 32x32, batch {results['batch_size']}), each library in a process of "
        f"its own; updates take turns, medians of {results['updates']}. Ours is a whole iteration of the loop, theirs "
        "the step without loop, loader, clipping and other callbacks. The ratio is the median of (ours / theirs); the "
        f"bar is {BAR}.",
        "",
        "| turn | ours | theirs | ours / theirs | lowest to highest | of that, system | operations, ours / theirs |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {turn} | {row['ours']:.3f} | {row['theirs']:.3f} | {row['ratio']:.3f} | "
        f"{row['lowest']:.2f}-{row['highest']:.2f} | {row['ours, system']:.3f}, {row['theirs, system']:.3f} | "
        f"{row['ours, operations'] / row['theirs, operations']:.4f} |"
        for turn, row in results["rows"].items()
    ]
    lines += [
        "",
        "Operations are those of the networks' layers, passes forward and backward. Where they are equal, so is the "
        "mathematics, pass by pass; what ours then gains is memory: our training on a CPU keeps what an update frees, "
        "on large pages (`fastgen/distiller/memory.py`). An allocator that does so would help theirs as much. A "
        "critic's turn saves the student's forward where its samples are those of the student's turn, as in DMD2's own "
        f"code; theirs makes new ones, and so does ours in the row '{SAME}', which has no bar: it is what is left when "
        "no pass is saved.",
    ]
    return "\n".join(lines) + "\n"


def commit_of(checkout: Path) -> str:
    """Its short commit, if git knows it."""
    answer = subprocess.run(["git", "-C", checkout, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or "of unknown commit"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of a checkout of NVlabs/FastGen")
    parser.add_argument("--updates", type=int, default=9, help="updates of each turn to measure")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--channels", type=int, default=32, help="base channels of the U-Net")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    prepare()
    plain, guided = measure(arguments, None, SHARED), measure(arguments, 2.0, SHARED)
    alone = measure(arguments, None, UpdateSchedule(exclusive=True))
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.beside_fastgen CHECKOUT", *sys.argv[2:]]),
        "date": datetime.date.today().isoformat(),
        "commit": commit_of(arguments.checkout),
        "machine": f"{platform.machine()}, 1 thread, {platform.system()}",
        "versions": {name: version(name).split("+")[0] for name in ("torch", "lightning")},
        "updates": arguments.updates,
        "batch_size": arguments.batch_size,
        "channels": arguments.channels,
        "rows": {
            "student": plain["student"],
            "guided student": guided["student"],
            "critic": plain["critic"],
            SAME: alone["critic"],
        },
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "beside_fastgen.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "beside_fastgen.md").write_text(table(results), encoding="utf-8")
    print(table(results))
    return int(any(row["ratio"] > BAR for turn, row in results["rows"].items() if turn != SAME))


if __name__ == "__main__":
    sys.exit(main())
