"""Does a run that is killed and resumed end bit for bit where an undisturbed one does?

    python -m benchmarks.kills                        # every config on mixtures and digits, resumable
    python -m benchmarks.kills --only sid_mixture --kills 5

Each config's small twin runs as ``fastgen fit``, in a process of its own that is forked from one which has imported
everything. The undisturbed run is compared with runs that are ended by

| row      | how                                                                                          |
|----------|----------------------------------------------------------------------------------------------|
| moment   | SIGKILL after a random time                                                                  |
| writing  | SIGKILL inside a random write: with half of the file there, before it gets its name, or after |
| full     | a random write finds the disk full; one sentence, exit code 2, the older files stay          |
| limit    | the same by a limit on the size of files (``ulimit -f``)                                     |

and are then resumed from the last checkpoint that lies there, with ``--ckpt_path``, until they are done. Compared are
all networks, optimizers' and schedules' states, counters and the data position of ``last.ckpt``, and
``student.safetensors``. No hidden file may be left afterwards. Written to ``benchmarks/results/``: ``kills.json``,
``kills.md``. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.kills.run import HERE, Trial, undisturbed

RESULTS = Path(__file__).parent.parent / "results"
WAYS = ("moment", "writing", "full", "limit")


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Killed runs",
        "",
        f"`{results['command']}`, {results['date']}, {results['machine']}, "
        + ", ".join(f"{name} {number}" for name, number in results["versions"].items())
        + ".",
        "",
        "Runs that were ended and resumed until they were done: how many are bit for bit the undisturbed run, of all; "
        "in brackets how often they were ended in all.",
        "",
        f"| config | {' | '.join(WAYS)} |",
        f"|---|{'---|' * len(WAYS)}",
    ]
    for name, row in results["rows"].items():
        cells = [f"{row[way]['equal']} of {row[way]['runs']} ({row[way]['ended']})" for way in WAYS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    totals = [
        [sum(row[way][key] for row in results["rows"].values()) for key in ("equal", "runs", "ended")] for way in WAYS
    ]
    lines.append("| all | " + " | ".join("{} of {} ({})".format(*total) for total in totals) + " |")
    failures = [text for row in results["rows"].values() for way in WAYS for text in row[way]["failures"]]
    return "\n".join([*lines, *(["", "Failures:", *(f"- {text}" for text in failures)] if failures else [])]) + "\n"


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="configs, e.g. sid_mixture; default all")
    parser.add_argument("--kills", type=int, default=1, help="runs of each way per config")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    path = arguments.out / "kills.json"
    results: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.kills", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, 1 thread, {platform.system()}",
        "versions": {name: version(name).split("+")[0] for name in ("torch", "lightning")},
        "rows": {},
    }
    if path.exists() and (found := json.loads(path.read_text(encoding="utf-8")))["command"] == results["command"]:
        results["rows"] = found["rows"]  # goes on where it was
    names = arguments.only or sorted(HERE)
    for name in names:
        if name in results["rows"]:
            continue
        chance = random.Random(f"{arguments.seed} {name}")
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            straight = undisturbed(HERE[name], Path(folder))
            row: dict[str, Any] = {}
            for way in WAYS:
                trials = [Trial(straight, way, chance, number) for number in range(arguments.kills)]
                failures = [f"{name}, {way}: {text}" for trial in trials if (text := trial.run())]
                row[way] = {
                    "equal": len(trials) - len(failures),
                    "runs": len(trials),
                    "ended": sum(trial.ended for trial in trials),
                    "failures": failures,
                }
        results["rows"][name] = row
        print(name, {way: (entry["equal"], entry["runs"], entry["ended"]) for way, entry in row.items()}, flush=True)
        arguments.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (arguments.out / "kills.md").write_text(table(results), encoding="utf-8")
    print(table(results))
    return int(any(entry["failures"] for row in results["rows"].values() for entry in row.values()))


if __name__ == "__main__":
    sys.exit(main())
