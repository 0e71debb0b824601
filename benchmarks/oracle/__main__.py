"""Every method on problems whose truth is known, from the same start and within the same budget.

    python -m benchmarks.oracle --jobs 2                        # all, about an hour on two CPU cores
    python -m benchmarks.oracle --problem ring --method DMD2 SiD
    python -m benchmarks.oracle --table                         # the pages again from what is there

A run is a problem and a method, in a process of its own. Finished runs are not repeated unless their recipe changed
(``--again`` repeats what is named). Written to ``--out``: ``oracle.json`` (all runs), ``oracle.md`` (the tables),
``oracle.png`` (distance against calls), ``oracle_curves.png`` (distance against training).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import multiprocessing
import multiprocessing.connection
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"
WORK = Path("runs/oracle")
"""Start networks and the records of single runs."""

ASSET = "asset:teacher_digits.safetensors"


def parse(words: list[str] | None = None) -> argparse.Namespace:
    from benchmarks.oracle.problems import PROBLEMS
    from benchmarks.oracle.recipes import all_recipes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--problem", nargs="+", choices=list(PROBLEMS), help="default all of which teacher and data are there"
    )
    parser.add_argument("--method", nargs="+", metavar="NAME", help="names of rows; default all")
    parser.add_argument("--budget", type=float, default=1.0, help="factor of every problem's budget")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--again", action="store_true", help="repeat what is finished")
    parser.add_argument("--table", action="store_true", help="only write the pages")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of start networks and single runs")
    arguments = parser.parse_args(words)
    known = list(all_recipes())
    if unknown := [name for name in arguments.method or [] if name not in known]:
        parser.error(f"no row is called '{unknown[0]}'; choose from {', '.join(repr(name) for name in known)}")
    return arguments


def there(named: list[str] | None) -> list[str]:
    """The problems that can be worked on: those that were named, or all but those that lack something, which is said.

    Raises:
        UserError: If one that was named lacks something.
    """
    from benchmarks.oracle.problems import PROBLEMS
    from fastgen.errors import UserError

    found = []
    for name in named or PROBLEMS:
        try:
            PROBLEMS[name]().check()
            found.append(name)
        except UserError as error:
            if named:
                raise
            print(f"without '{name}': {error}", file=sys.stderr)
    return found


def problem_of(name: str, budget: float) -> Any:
    from benchmarks.oracle.problems import PROBLEMS

    problem = PROBLEMS[name]()
    return dataclasses.replace(
        problem, budget=round(budget * problem.budget), start_updates=round(min(1.0, budget) * problem.start_updates)
    )


def start_of(problem: Any, work: Path) -> str:
    """The file of the network that every student begins as."""
    from benchmarks.oracle.run import start_fingerprint

    return (
        str(work / f"start-{problem.name}-{start_fingerprint(problem)}.safetensors") if problem.start_updates else ASSET
    )


def record_path(work: Path, problem: str, name: str) -> Path:
    return work / f"{problem}-{name.replace(', ', '-').replace(' ', '-')}.json"


def single(problem_name: str, name: str, arguments: argparse.Namespace) -> None:
    """One run; ``start`` trains the start, ``teacher`` measures the solvers."""
    from benchmarks.oracle import run
    from benchmarks.oracle.recipes import all_recipes
    from fastgen.storage.files import write_json

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    problem = problem_of(problem_name, arguments.budget)
    problem.prepare(arguments.work)
    start = start_of(problem, arguments.work)
    if name == "start":
        run.make_start(problem, Path(start))
        return
    if name == "teacher":
        record = run.teachers(problem, start if problem.start_updates else None)
    else:
        record = run.run(problem, name, all_recipes()[name], start)
    write_json(record_path(arguments.work, problem_name, name), record)


def run_all(runs: list[tuple[str, str]], arguments: argparse.Namespace) -> None:
    """Each run in a forked process, so that it need not import anything and its peak memory is its own."""
    context, waiting = multiprocessing.get_context("fork"), list(runs)
    working: dict[int, tuple[Any, tuple[str, str], float]] = {}
    while waiting or working:
        while waiting and len(working) < arguments.jobs:
            pair = waiting.pop(0)
            process = context.Process(target=single, args=(*pair, arguments))
            process.start()
            working[process.sentinel] = process, pair, time.perf_counter()
        for sentinel in multiprocessing.connection.wait(list(working)):
            process, (problem, name), began = working.pop(sentinel)  # type: ignore[index]
            process.join()
            outcome = f"died with exit code {process.exitcode}" if process.exitcode else "done"
            print(f"{problem:8}{name:18}{time.perf_counter() - began:7.0f} s  {outcome}", flush=True)


def known_records(arguments: argparse.Namespace) -> dict[tuple[str, str], dict[str, Any]]:
    """All records there are; a single run's file is newer than the merged one."""
    records: list[dict[str, Any]] = []
    merged = arguments.out / "oracle.json"
    if merged.exists():
        records += json.loads(merged.read_text(encoding="utf-8"))["runs"]
    if arguments.work.exists():
        records += [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.work.glob("*.json"))]
    return {(record["problem"], record["name"]): record for record in records}


def wanted(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The runs that are not finished yet."""
    from benchmarks.oracle.recipes import all_recipes
    from benchmarks.oracle.run import run_fingerprint, teachers_fingerprint

    known, recipes = known_records(arguments), all_recipes()
    runs = []
    for problem_name in arguments.problem:
        problem = problem_of(problem_name, arguments.budget)
        prints = {"teacher": teachers_fingerprint(problem)}  # nothing can be compared without it
        prints |= {name: run_fingerprint(problem, recipes[name]) for name in arguments.method or recipes}
        for name, fingerprint in prints.items():
            again = arguments.again and name != "teacher"
            if again or known.get((problem_name, name), {}).get("fingerprint") != fingerprint:
                runs.append((problem_name, name))
    return runs


def main() -> int:
    arguments = parse()
    from benchmarks.oracle.table import write_pages
    from fastgen.errors import UserError

    if not arguments.table:
        try:
            arguments.problem = there(arguments.problem)
        except UserError as error:
            print(f"fastgen: {error}", file=sys.stderr)
            return 2
        runs = wanted(arguments)
        began = time.perf_counter()
        problems = [problem_of(name, arguments.budget) for name in dict.fromkeys(name for name, _ in runs)]
        starts = [p.name for p in problems if p.start_updates and not Path(start_of(p, arguments.work)).exists()]
        run_all([(name, "start") for name in starts], arguments)
        run_all(runs, arguments)
        print(f"{len(runs)} runs, {(time.perf_counter() - began) / 60:.1f} minutes")
    write_pages(known_records(arguments), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
