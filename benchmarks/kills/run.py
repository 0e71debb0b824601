"""One run that is ended by force, resumed and compared."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from benchmarks.kills.faults import full_disk, kill_in_a_write
from fastgen.seals import OWN

CONFIGS = Path(__file__).parent.parent.parent / "configs"
HERE = {p.stem: p for p in sorted(CONFIGS.glob("*.yaml")) if "pretrained:" not in p.read_text(encoding="utf-8")}
"""The configs whose networks need no download, by name."""
STEPS, EVERY = 4, 2
WRITES = 6
"""Writes of a small run, about: those of its config, of two checkpoints under two names, of its weights."""
CALLBACKS = ("EMA", "Checkpoint")
"""The callbacks that are kept: what evaluations and pictures draw is not part of a run's state."""
FORK = multiprocessing.get_context("fork")


def command(config: Path, folder: Path) -> list[str]:
    """``fastgen fit`` of a config's small twin in ``folder``."""
    given = yaml.safe_load(config.read_text(encoding="utf-8"))
    kept = [c for c in given["trainer"]["callbacks"] if c["class_path"].rsplit(".", 1)[-1] in CALLBACKS]
    for entry in kept:
        if entry["class_path"].endswith("Checkpoint"):
            entry["init_args"] = {"every_n_steps": EVERY}
    folder.mkdir(parents=True, exist_ok=True)
    small = folder / "small.yaml"
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": str(folder), "name": "run"},
    }
    small.write_text(yaml.safe_dump({"trainer": {"callbacks": kept, "logger": logger, "enable_progress_bar": False}}))
    words = ["fit", f"--config={config}", f"--config={small}", f"--trainer.max_steps={STEPS}", "--threads=1"]
    words += ["--trainer.limit_val_batches=0", "--data.init_args.batch_size=8"]
    if given["data"]["class_path"] == "Pairs":
        words += [f"--data.init_args.path={folder.parent / 'pairs'}", "--data.init_args.held_out_count=16"]
    return words


def child(words: list[str], log: Path, fault: Any, limit: int | None) -> None:
    """What a forked process does: one command line, with its output in ``log``."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    torch.set_num_threads(1)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if fault is not None:
        fault()
    from fastgen.__main__ import main

    code = main(words)
    os._exit(code)


def start(words: list[str], log: Path, fault: Any = None, limit: int | None = None) -> Any:
    """``fastgen WORDS`` in a process of its own."""
    process = FORK.Process(target=child, args=(words, log, fault, limit))
    process.start()
    return process


@dataclass
class Straight:
    """An undisturbed run: its config, folder and duration in seconds."""

    config: Path
    folder: Path
    seconds: float


def undisturbed(config: Path, folder: Path) -> Straight:
    """Run a config's twin to its end."""
    if yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["class_path"] == "Pairs":
        pairs = start(
            ["pairs", f"--config={config}", f"--out={folder / 'pairs'}", "--count=48", "--steps=2"],
            folder / "pairs.txt",
        )
        pairs.join()
    began = time.monotonic()
    process = start(command(config, folder / "straight"), folder / "straight.txt")
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{config.stem} does not run:\n{(folder / 'straight.txt').read_text()[-2000:]}")
    return Straight(config, folder, time.monotonic() - began)


def latest(folder: Path, name: str) -> Path | None:
    """A file of the checkpoints' folder in the latest version that has it."""
    found = folder.glob(f"run/version_*/checkpoints/{name}")
    return max(found, key=lambda path: int(path.parts[-3].split("_")[1]), default=None)


@dataclass
class Trial:
    """A run that is ended in one way, resumed until it is done, and compared.

    Attributes:
        ended: How often it was ended.
    """

    straight: Straight
    way: str
    chance: random.Random
    number: int
    ended: int = field(default=0, init=False)

    def run(self) -> str:
        """What is wrong; empty if nothing is."""
        folder = self.straight.folder / f"{self.way}-{self.number}"
        words, log = command(self.straight.config, folder), folder / "log.txt"
        for attempt in range(4):
            checkpoint = latest(folder, "last.ckpt")
            more = [] if checkpoint is None else [f"--ckpt_path={checkpoint}"]
            disturbed = attempt < 2
            code = self.disturbed(words + more, log) if disturbed else self.whole(words + more, log)
            self.ended += code != 0
            text = log.read_text(errors="replace")
            if "Traceback" in text:
                return "a traceback: " + text[-300:].replace("\n", " ")
            if self.way in ("full", "limit") and code not in (0, 2):
                return f"exit code {code}"
            if code not in (0, 2, -signal.SIGKILL) or (code and not disturbed):
                return f"exit code {code}: " + text[-300:].replace("\n", " ")
            if self.way in ("full", "limit") and (hidden := leftovers(folder)):
                return f"left {hidden}"
            if code == 0 and not disturbed:
                break
        return differences(self.straight.folder / "straight", folder)

    def whole(self, words: list[str], log: Path) -> int:
        """Run to the end."""
        process = start(words, log)
        process.join()
        return process.exitcode

    def disturbed(self, words: list[str], log: Path) -> int:
        """Run until something happens."""
        write, stage = self.chance.randrange(WRITES), self.chance.randrange(3)
        if self.way == "moment":
            process = start(words, log)
            process.join(self.chance.uniform(0.05, 1.0) * self.straight.seconds)
            process.kill()
        elif self.way == "writing":
            process = start(words, log, kill_in_a_write(write, stage))
        elif self.way == "full":
            process = start(words, log, full_disk(write))
        else:
            size = max(path.stat().st_size for path in self.straight.folder.glob("straight/run/*/checkpoints/*.ckpt"))
            process = start(words, log, limit=int(size * self.chance.uniform(0.05, 0.95)))
        process.join()
        return process.exitcode


def leftovers(folder: Path) -> list[str]:
    """Hidden files in a run's folders."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.is_file()]


def differences(one: Path, other: Path) -> str:
    """Where the ends of two runs differ; empty if nowhere."""
    ends = [latest(folder, "last.ckpt") for folder in (one, other)]
    weights = [latest(folder, "student.safetensors") for folder in (one, other)]
    if None in ends or None in weights:
        return "there is no last checkpoint or no weights file"
    first, second = (torch.load(path, weights_only=True) for path in ends if path is not None)
    for part in ("global_step", OWN):
        if part == OWN:
            keys = ("iteration", "bad_steps_total", "averages", "updates", "roles")
            if any(first[OWN][key] != second[OWN][key] for key in keys):
                return "the counters differ"
        elif first[part] != second[part]:
            return f"{part} differs"
    digests = [saved[OWN]["digests"] for saved in (first, second)]
    data = first[OWN]["data"]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", *([data] if data else [])):
        if digests[0][part] != digests[1][part]:
            return f"{part} differs"
    tensors = [load_file(path) for path in weights if path is not None]
    if tensors[0].keys() != tensors[1].keys() or any(
        not torch.equal(value, tensors[1][name]) for name, value in tensors[0].items()
    ):
        return "student.safetensors differs"
    return ""
