"""One run that is ended by force, resumed and compared."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

import fastgen.cli.lightning  # noqa: F401  so that no forked process must
from benchmarks.kills.compare import damaged, differences, latest, leftovers
from benchmarks.kills.disks import resize, small_disk, used
from benchmarks.kills.twins import needs_pairs, twin
from benchmarks.kills.writes import Fault, full_disk, killed_after_write, killed_in_write, limited_from, noted_in

WAYS = ("moment", "writing", "full", "limit")
ENDS = {0, 2, -signal.SIGKILL, -signal.SIGPROF}
"""Exit codes of a run that is done, that was refused in a sentence, and that was killed."""
LARGE = (".ckpt", ".safetensors")
"""Ends the names of the files that do not fit."""
ROOMY = 1 << 28
"""Bytes of a disk that is large enough."""
FORK = multiprocessing.get_context("fork")


def child(words: list[str], log: Path, fault: Fault | None, imported: Path | None) -> None:
    """What a forked process does: one command line, with its output in ``log``."""
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    torch.set_num_threads(1)
    if fault is not None:
        fault()
    from fastgen.__main__ import main

    code = main(words)
    if imported is not None:
        imported.write_text("\n".join(list(sys.modules)))
    os._exit(code)


def run(words: list[str], log: Path, fault: Fault | None = None, imported: Path | None = None) -> int:
    """``fastgen WORDS`` in a process of its own; the exit code."""
    sys.stdout.flush()
    process = FORK.Process(target=child, args=(words, log, fault, imported))
    process.start()
    process.join()
    return int(process.exitcode or 0)


@dataclass
class Straight:
    """An undisturbed run: its config, the folder that it shares with others, and its writes."""

    config: Path
    folder: Path
    writes: list[dict[str, Any]]


def undisturbed(config: Path, folder: Path) -> Straight:
    """Run a config's twin to its end, and import here what it had to import."""
    if needs_pairs(config):
        small = ["--count=48", "--steps=2"]
        run(["pairs", f"--config={config}", f"--out={folder / 'pairs'}", *small], folder / "pairs.txt")
    home, log, record = folder / "straight", folder / "straight.txt", folder / "writes.jsonl"
    code = run(command(config, home, folder / "pairs"), log, noted_in(record), folder / "imported.txt")
    if code:
        raise RuntimeError(f"{config.stem} does not run:\n{log.read_text()[-2000:]}")
    for name in (folder / "imported.txt").read_text().splitlines():
        if name not in sys.modules:
            with suppress(Exception):
                importlib.import_module(name)
    writes = [json.loads(line) for line in record.read_text().splitlines()]
    return Straight(config, folder, writes)


def command(config: Path, folder: Path, pairs: Path) -> list[str]:
    """``fastgen fit`` of a config's twin in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(twin(config, folder, pairs)))
    return ["fit", f"--config={path}"]


@dataclass
class Trial:
    """A run that is ended in each way, in a random order, resumed until it is done, and compared.

    Half of the trials go on in the folder of the run, half in a new version of it.

    Attributes:
        ended: How often it was ended in each way; a fault that lies behind the end of a resumed run does not happen.
    """

    straight: Straight
    ways: Sequence[str]
    chance: random.Random
    number: int
    ended: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        self.folder = self.straight.folder / f"trial-{self.number}"
        self.same_folder = self.chance.random() < 0.5
        self.order = self.chance.sample(self.ways, len(self.ways))
        large = [write for write in self.straight.writes if write["name"].endswith(LARGE)]
        self.bytes = min(write["bytes"] for write in large)

    def run(self) -> str:
        """What is wrong; empty if nothing is."""
        with small_disk(self.folder, ROOMY) as mounted:
            words = command(self.straight.config, self.folder, self.straight.folder / "pairs")
            for attempt, way in enumerate([*self.order, None]):
                more, before = self.start(), leftovers(self.folder)
                fault = self.fault(way, mounted)
                code = run([*words, *more], log := self.folder.with_suffix(".txt"), fault)
                if mounted:
                    resize(self.folder, ROOMY)
                if way is not None:
                    self.ended[way] += code != 0
                if wrong := self.refuse(way, code, log.read_text(errors="replace"), before):
                    return f"run {attempt} of {self.order}: {wrong}"
            return differences(self.straight.folder / "straight", self.folder)

    def start(self) -> list[str]:
        """How the next command goes on: from the last checkpoint, or from the beginning if there is none."""
        checkpoint = latest(self.folder, "last.ckpt")
        if checkpoint is None:
            shutil.rmtree(self.folder / "run", ignore_errors=True)  # what a user of one folder must do
        same = ["--trainer.logger.init_args.version=0"] * self.same_folder
        return same + ([] if checkpoint is None else [f"--ckpt_path={checkpoint}"])

    def fault(self, way: str | None, mounted: bool) -> Fault | None:
        """What ends the next run."""
        writes, chance = self.straight.writes, self.chance
        fresh = latest(self.folder, "last.ckpt") is None
        number = chance.randrange(len(writes) - 1 if fresh else max(1, len(writes) // 4))
        size = int(chance.uniform(0.1, 0.95) * self.bytes)
        match way:
            case "moment":
                pause = writes[number + 1]["cpu"] - writes[number]["cpu"]
                return killed_after_write(number, chance.random() * pause)
            case "writing":
                return killed_in_write(number, chance.randrange(3))
            case "full" if mounted:
                resize(self.folder, used(self.folder) + size)
            case "full":
                return full_disk(number)
            case "limit":
                return limited_from(number, max(size, 1 << 16))
        return None

    def refuse(self, way: str | None, code: int, text: str, before: set[str]) -> str:
        """What is wrong with how a run ended; empty if nothing is."""
        if "Traceback" in text or code not in ENDS or (code and way is None):
            return f"exit code {code}: " + text[-600:].replace("\n", " / ")
        tidy = way in ("full", "limit") or (way is None and self.same_folder)
        if tidy and (hidden := leftovers(self.folder) - (before if way else set())):
            return f"left {sorted(hidden)}"
        if way in ("full", "limit"):
            said = [line for line in text.splitlines() if line.startswith("fastgen: ")]
            if code == 2 and not any(word in text for word in ("full", "larger than")):
                return f"another refusal: {said[-1:]}"
        return next(damaged(self.folder), "")
