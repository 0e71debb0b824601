"""python -m benchmarks.mutations: applies every written mistake and says which ones the tests notice.

A run goes on where it was stopped; what was noticed is run again when the mutated file has changed, what was not when
the tests have, too, and what took more than ``--seconds`` when it may take longer. On a busy machine begin with few
seconds: most mistakes are noticed at once. The table goes to ``benchmarks/results/mutations.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.mutations.catalogue import Mutation, catalogue
from benchmarks.mutations.choice import file_of, files_for
from benchmarks.mutations.runner import Copy, preload
from benchmarks.mutations.table import table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
TOGETHER = 6
"""Mutations whose tests are tried without them in one go."""


def digest_of_tests(tests: list[str]) -> str:
    """Stands for the content of the test files."""
    result = hashlib.sha256()
    for name in tests:
        path = ROOT / file_of(name)
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            result.update(file.read_bytes())
    return result.hexdigest()[:16]


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """What was measured so far, by digest; the latest line counts."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["digest"]: row for row in map(json.loads, lines)}


def outcome(
    mutation: Mutation, copy: Copy, source: str, tests: list[str], first: list[str], broken: list[str]
) -> dict[str, Any]:
    """One mutation's row; tests that noticed it before come ``first``, ``broken`` ones fail anyway."""
    row: dict[str, Any] = {"digest": mutation.digest(source), "room": mutation.room, "name": mutation.name}
    row |= {"file": mutation.file, "tests": digest_of_tests(sorted(tests)), "equivalent": mutation.equivalent}
    mutated = mutation.applied(source)
    if mutated is None:
        return row | {"outcome": "stale"}
    try:
        compile(mutated, mutation.file, "exec")
    except SyntaxError as error:
        return row | {"outcome": "broken", "by": str(error)}
    first = [test for test in first if test not in broken]
    found = copy.mutated(mutation.file, mutated, [*first, *tests], [f"--deselect={test}" for test in broken])
    if found["by"] == "time":
        return row | {"outcome": "slow", "limit": copy.seconds, **found}
    return row | {"outcome": "alive" if found["passed"] else "killed", **found}


def text_of(path: Path) -> str:
    """What stands in a file; nothing if it is gone."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def by_experience(tests: list[str], file: str, known: Iterable[dict[str, Any]]) -> list[str]:
    """Those that noticed the most of a file's mutations first."""
    noticed = Counter(file_of(row.get("by", "")) for row in known if row["file"] == file)
    return sorted(tests, key=lambda test: -noticed[file_of(test)])


def exists(test: str) -> bool:
    """Whether a test of this name may still be there."""
    file, _, name = test.partition("::")
    path = ROOT / file
    return bool(name) and path.is_file() and f"def {name.partition('[')[0]}(" in path.read_text(encoding="utf-8")


def tidy(path: Path, mutations: list[Mutation]) -> None:
    """Keep the latest line of every mutation that is still written."""
    latest = {(row["file"], row["name"]): row for row in read_results(path).values()}
    written = [key for m in mutations if (key := (m.file, m.name)) in latest]
    path.write_text("".join(json.dumps(latest[key]) + "\n" for key in written), encoding="utf-8")


def unsound(copy: Copy, tests: set[str]) -> set[str]:
    """Those of the tests that fail without any mutation."""
    found: set[str] = set()
    while left := sorted(tests - found):
        run = copy.run(left[:1], left[1:], slack=10)
        if run["passed"]:
            return found
        if run["by"] not in left:  # they cannot even be collected together
            return found | {test for test in left if not copy.run([test], slack=10)["passed"]}
        found.add(run["by"])
    return found


def work(mutations: list[Mutation], path: Path, seconds: int) -> None:
    """Measure in this process what is not known yet."""
    known, copy = read_results(path), Copy(ROOT, seconds)
    noticed = {(row["file"], row["name"]): row["by"] for row in known.values() if "::" in row.get("by", "")}
    sound: set[str] = set()
    broken: set[str] = set()
    waiting: list[tuple[Mutation, dict[str, Any]]] = []  # until it is known that their tests pass without them
    queue = deque(mutations)
    try:
        while queue or waiting:
            if len(waiting) >= TOGETHER or not queue:
                new = {row["by"] for _, row in waiting if "::" in row.get("by", "")} - sound
                for test in (failing := unsound(copy, new)):
                    print(f"{test} fails without any mutation and is left out", file=sys.stderr)
                sound, broken = sound | (new - failing), broken | failing
                again = [mutation for mutation, row in waiting if row.get("by") in broken]
                rows = [row for _, row in waiting if row.get("by") not in broken]
                known |= {row["digest"]: row for row in rows}
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
                waiting.clear()
                queue.extendleft(again)
                continue
            mutation = queue.popleft()
            source = text_of(copy.tree / mutation.file)
            tests = files_for(mutation.file)
            old = known.get(mutation.digest(source), {})
            slow = old.get("outcome") == "slow" and old.get("limit", 0) < seconds
            if old.get("outcome") == "killed" or (old.get("tests") == digest_of_tests(sorted(tests)) and not slow):
                continue
            first = [test] if exists(test := noticed.get((mutation.file, mutation.name), "")) else []
            tests = by_experience(tests, mutation.file, [*known.values(), *(row for _, row in waiting)])
            row = outcome(mutation, copy, source, tests, first, sorted(broken))
            waiting.append((mutation, row))
            print(f"{row['outcome']:7} {row.get('seconds', 0):6} {mutation.room}: {mutation.name}", flush=True)
    finally:
        copy.remove()


def main() -> int:
    """Apply, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", action="append", help="only these rooms")
    parser.add_argument("--only", action="append", help="only mutations whose name or file holds this text")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=int, default=240, help="most CPU seconds of the tests of one mutation")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "mutations.jsonl")
    parser.add_argument("--table", action="store_true", help="measure nothing, write the table")
    arguments = parser.parse_args()
    chosen = [m for m in catalogue() if not arguments.room or m.room in arguments.room]
    if arguments.only:
        chosen = [m for m in chosen if any(text in m.name or text in m.file for text in arguments.only)]
    if not arguments.table:
        measured = [m for m in chosen if not m.equivalent]
        random.Random(0).shuffle(measured)  # what is measured before a stop stands for all rooms
        preload()
        children = []
        for job in range(1, arguments.jobs):
            if (child := os.fork()) == 0:
                work(measured[job :: arguments.jobs], arguments.results, arguments.seconds)
                os._exit(0)
            children.append(child)
        work(measured[:: arguments.jobs], arguments.results, arguments.seconds)
        for child in children:
            os.waitpid(child, 0)
        tidy(arguments.results, catalogue())
    known = read_results(arguments.results)
    before = {(row["file"], row["name"]) for row in known.values() if row["outcome"] == "killed"}
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for mutation in chosen:
        source = text_of(ROOT / mutation.file)
        earlier = "noticed before" if (mutation.file, mutation.name) in before else "not run"
        unknown = {"outcome": earlier, "name": mutation.name, "file": mutation.file}
        row = known.get(mutation.digest(source), unknown)
        if mutation.applied(source) is None:
            row = unknown | {"outcome": "stale"}
        if mutation.equivalent:
            row = unknown | {"outcome": "equivalent", "by": mutation.equivalent}
        rows[mutation.room].append(row)
    text = table(rows, f"Python {platform.python_version()}")
    if not (arguments.room or arguments.only):
        (RESULTS / "mutations.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
