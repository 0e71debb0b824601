"""Does a run that is killed and resumed end bit for bit where an undisturbed one does?

    python -m benchmarks.kills                        # every config on mixtures and digits, resumable
    python -m benchmarks.kills --only sid_mixture --kills 5

Each config's small twin (:mod:`.twins`) runs as ``fastgen fit``, in a process of its own that is forked from one which
has imported everything. The undisturbed run is compared with runs that are ended in all of these ways, in a
random order,

| way      | how                                                                                           |
|----------|-----------------------------------------------------------------------------------------------|
| moment   | killed a random CPU time after a random write                                                 |
| writing  | SIGKILL inside a random write: with half of the file there, before it gets its name, or after |
| full     | a disk that is too small; one sentence, exit code 2, the older files stay                     |
| limit    | the same by a limit on the size of files (``ulimit -f``)                                      |

and are then resumed, in the folder of the run or in a new one, from the last checkpoint that lies there with
``--ckpt_path`` until they are done. Compared are everything in ``last.ckpt`` (networks, states of optimizers, schedules
and callbacks, counters, the data position; not what clocks said, nor what was measured of the teacher),
``student.safetensors`` and all rows of ``metrics.jsonl``. After every end each checkpoint there must be whole, and no
hidden file may be left where a program could tidy up. Written to ``benchmarks/results/``: ``kills.json``, ``kills.md``.
Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.kills.disks import can_mount
from benchmarks.kills.run import WAYS, Trial, undisturbed
from benchmarks.kills.twins import HERE

RESULTS = Path(__file__).parent.parent / "results"


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    ways = results["ways"]
    rows = results["rows"]
    lines = [
        "# Killed runs",
        "",
        f"`{results['command']}`, {results['date']}, {results['machine']}, "
        + ", ".join(f"{name} {number}" for name, number in results["versions"].items())
        + f", {results['cpu_seconds'] / 60:.0f} CPU minutes.",
        "",
        "Runs that were ended in every way, in a random order, and resumed until they were done: how many are bit for "
        "bit the undisturbed run, of all, and how often they were ended in each way. "
        f"Full disks are {results['disk']}.",
        "",
        f"| config | equal | {' | '.join(ways)} |",
        f"|---|---|{'---|' * len(ways)}",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['equal']} of {row['runs']} | {cells(row['ended'][way] for way in ways)} |")
    equal, runs = (sum(row[key] for row in rows.values()) for key in ("equal", "runs"))
    ended = cells(sum(row["ended"][way] for row in rows.values()) for way in ways)
    lines.append(f"| all | {equal} of {runs} | {ended} |")
    failures = [f"- {name}: {text}" for name, row in rows.items() for text in row["failures"]]
    return "\n".join([*lines, *(["", "Failures:", "", *failures] if failures else [])]) + "\n"


def cells(numbers: Iterable[int]) -> str:
    """Numbers as cells of a row."""
    return " | ".join(map(str, numbers))


def cpu_seconds() -> float:
    """Of this process and those it has waited for."""
    return sum(os.times()[:4])


def row_of(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What became of a config's runs."""
    chance = random.Random(f"{arguments.seed} {name}")
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        straight = undisturbed(HERE[name], Path(folder))
        trials = [Trial(straight, arguments.ways, chance, number) for number in range(arguments.kills)]
        failures = [text for trial in trials if (text := trial.run())]
    return {
        "equal": len(trials) - len(failures),
        "runs": len(trials),
        "ended": {way: sum(trial.ended[way] for trial in trials) for way in arguments.ways},
        "failures": failures,
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="configs, e.g. sid_mixture; default all")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS, help="default all")
    parser.add_argument("--kills", type=int, default=1, help="runs that are ended, per config")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    path = arguments.out / "kills.json"
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.kills", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, 1 thread, {platform.system()}",
        "versions": {name: version(name).split("+")[0] for name in ("torch", "lightning")},
        "disk": "small ones (tmpfs)" if can_mount() else "faults put into writes, because nothing can be mounted here",
        "ways": arguments.ways,
        "cpu_seconds": 0.0,
        "rows": {},
    }
    if path.exists() and (found := json.loads(path.read_text(encoding="utf-8")))["command"] == results["command"]:
        results = results | {name: found[name] for name in ("rows", "cpu_seconds")}  # goes on where it was
    names = [name for name in arguments.only or sorted(HERE) if name not in results["rows"]]
    if len(names) > 1:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            undisturbed(HERE[names[0]], Path(folder))  # imports, so that all runs take as long
    for name in names:
        began = cpu_seconds()
        results["rows"][name] = row = row_of(name, arguments)
        results["cpu_seconds"] = round(results["cpu_seconds"] + cpu_seconds() - began, 1)
        print(name, row, flush=True)
        arguments.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "kills.md").write_text(table(results), encoding="utf-8")
    print(table(results))
    return int(any(row["failures"] for row in results["rows"].values()))


if __name__ == "__main__":
    sys.exit(main())
