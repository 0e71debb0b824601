"""First losses and gradient norms of every method and every shipped config, in fp64, as files under ``tests/golden``.

    python tests/golden_losses.py            # compares all of them with the files
    python tests/golden_losses.py --write    # writes the missing ones
    python tests/golden_losses.py --write --again SiD sid_digits   # these, also where a file stands

A change of structure reproduces every number. A change of mathematics changes a file, in a commit that says why.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE), str(HERE / "support"), str(HERE.parent)) if path not in sys.path]

import yaml  # noqa: E402
from command_line import CONFIGS as CONFIG_FILES  # noqa: E402
from command_line import fastgen, unshared, write  # noqa: E402
from denoisers.test_families_cli import CONFIGS as FAMILY_CONFIGS  # noqa: E402
from denoisers.test_families_cli import WAN, shortened  # noqa: E402
from every_method import METHODS, ORIGINAL, every_turn, make  # noqa: E402
from toys import ToyData, gradient_descent, trainer  # noqa: E402

from fastgen.errors import UserError  # noqa: E402
from fastgen.methods import Distiller  # noqa: E402

FOLDER = HERE / "golden"
TOLERANCE = 1e-9
"""Relative; another machine adds in another order. On one machine the numbers are equal."""
UPDATES = 3
"""Student updates of a config."""
BATCH = 8

Numbers = dict[str, list[float]]
"""By name of a loss or gradient norm: its value in every update of its role, in order."""

OWN_TESTS = ("meanflow_wan", "anyflow_wan", "anyflow_on_policy_wan")
FAMILIES: dict[str, dict[str, Any]] = {**FAMILY_CONFIGS, **dict.fromkeys(OWN_TESTS, WAN)}
SMALL = {path.stem: path for path in CONFIG_FILES if path.stem not in FAMILIES}


@contextmanager
def recorded() -> Iterator[Numbers]:
    """Collects what methods record while they train."""
    numbers: Numbers = {}
    original = Distiller.record

    def record(self: Distiller, name: str, value: Any) -> None:
        if self._trainer is not None and self._trainer.training:
            numbers.setdefault(name, []).append(float(value.detach().double()))
        original(self, name, value)

    with mock.patch.object(Distiller, "record", record):
        yield numbers


def of_method(name: str) -> Numbers:
    """A method on the toys of the contract test, until every role had two turns."""
    cls = next(cls for cls in METHODS if cls.__name__ == name)
    method = make(cls, seed=0, **gradient_descent(cls, 1e-3))
    with recorded() as numbers:
        trainer(every_turn(cls, 2), precision="64-true").fit(method, ToyData(batch_size=4, seed=0))
    return numbers


def without_waiting(config: Any) -> None:
    """Let every extra act from the first update."""
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else []:
        without_waiting(value)
    if isinstance(config, dict) and "start" in config:
        config["start"] = 0


def of_config(name: str, folder: Path) -> Numbers:
    """A config that needs no weights, with small batches, through the command line."""
    config = unshared(yaml.safe_load(SMALL[name].read_text()))
    without_waiting(config["model"]["init_args"].get("extras"))
    callbacks = [c for c in config["trainer"]["callbacks"] if c["class_path"].endswith("EMA")]
    config["trainer"] |= {"max_steps": UPDATES, "accelerator": "cpu", "devices": 1, "precision": "64-true"}
    config["trainer"] |= {"logger": False, "callbacks": callbacks, "enable_model_summary": False}
    config["trainer"]["default_root_dir"] = str(folder)
    config["data"]["init_args"]["batch_size"] = BATCH
    if pairs := config["data"]["class_path"] == "Pairs":
        config["data"]["init_args"] |= {"path": str(folder / "pairs"), "held_out_count": BATCH}
    path = write(folder / "config.yaml", config)
    if pairs:
        assert fastgen("pairs", f"--config={path}", "--count=40", f"--out={folder / 'pairs'}") == 0
    return fitted(path)


def of_family(name: str, folder: Path) -> Numbers:
    """A config for released weights on its family's tiny pipeline."""
    config = yaml.safe_load((HERE.parent / "configs" / f"{name}.yaml").read_text())
    without_waiting(config["model"]["init_args"].get("extras"))
    path = shortened(config, FAMILIES[name], folder)
    return fitted(path, "--trainer.precision=64-true")


def fitted(path: Path, *words: str) -> Numbers:
    with recorded() as numbers:
        assert fastgen("fit", f"--config={path}", "--seed_everything=0", *words) == 0
    return numbers


NAMES = {
    "methods": [cls.__name__ for cls in METHODS],
    "configs": list(SMALL),
    "families": list(FAMILIES),
}
COPIED = {cls.__name__: original.__name__ for cls, original in ORIGINAL.items()}


def measure(kind: str, name: str) -> Numbers:
    """The numbers of one method, config or family's config."""
    if kind == "methods":
        return of_method(name)
    with tempfile.TemporaryDirectory() as folder:
        return (of_config if kind == "configs" else of_family)(name, Path(folder))


def file_of(kind: str, name: str) -> Path:
    """Where the numbers stand."""
    return FOLDER / kind / f"{COPIED.get(name, name)}.json"


def difference(one: Numbers, other: Numbers) -> tuple[float, str]:
    """The largest relative difference and where it is; infinite if the names or counts differ."""
    worst, place = 0.0, ""
    for name in sorted({*one, *other}):
        left, right = one.get(name, []), other.get(name, [])
        gap = math.inf if len(left) != len(right) else 0.0
        for a, b in zip(left, right, strict=False):
            both_nan = math.isnan(a) and math.isnan(b)
            apart = abs(a - b) / max(abs(a), abs(b), 1e-6)
            gap = max(gap, 0.0 if both_nan or a == b else math.inf if math.isnan(apart) else apart)
        if not gap <= worst:
            worst, place = gap, name
    return worst, place


def main() -> int:
    """Compare or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="methods or configs; default all")
    parser.add_argument("--write", action="store_true", help="write the missing files")
    parser.add_argument("--again", action="store_true", help="with --write: also those that stand")
    arguments = parser.parse_args()
    wrong = 0
    for kind, names in NAMES.items():
        for name in names:
            if arguments.names and name not in arguments.names:
                continue
            path = file_of(kind, name)
            if arguments.write and path.exists() and not arguments.again:
                continue
            try:
                numbers = measure(kind, name)
            except UserError as error:
                raise SystemExit(f"{kind}/{name}: {error}") from error
            if arguments.write:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n")
                print(f"{kind}/{name}: written")
                continue
            gap, place = difference(numbers, json.loads(path.read_text()))
            wrong += not gap <= TOLERANCE
            print(f"{kind}/{name}: {'equal' if gap == 0 else f'{gap:.1e} at {place}'}")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
