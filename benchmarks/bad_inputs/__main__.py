"""Command line of the fuzzer.

    python -m benchmarks.bad_inputs --jobs 2

runs every input that has no outcome yet, writes ``benchmarks/results/bad_inputs.md`` and exits with 1 if one ended in a
traceback, was stopped, was refused in words that are no sentence, or was accepted without a reason.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from benchmarks.bad_inputs import commands, configs, files
from benchmarks.bad_inputs.inputs import BadInput, Outcome
from benchmarks.bad_inputs.runner import Limits, command_line, forget, known, run_all
from benchmarks.bad_inputs.stage import make_stage
from benchmarks.bad_inputs.table import faults, write


def prepared(stage: Path) -> None:
    """Write the good files of which bad ones are made, in another process, as one with threads should not fork."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if not (stage / "good").exists():
                half = stage / f"good-{os.getpid()}"
                make_stage(half, command_line()).rename(stage / "good")
            for path in configs.sources():
                configs.resolved(path, stage)
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the good files could not be made, so there is nothing to damage")


def corpus(stage: Path) -> list[BadInput]:
    """Every input, in the order of the table."""
    good = stage / "good"
    return [
        *configs.good_inputs(stage),
        *configs.key_inputs(stage),
        *files.inputs(good),
        *commands.inputs(good),
    ]


def chosen(inputs: list[BadInput], only: str, count: int | None, seed: int) -> list[BadInput]:
    """The controls and those of the others whose key holds ``only``, or ``count`` of them drawn at random."""
    controls = [given for given in inputs if given.group == "control" and only in given.key]
    others = [given for given in inputs if given.group != "control" and only in given.key]
    if count is not None:
        random.Random(seed).shuffle(others)  # those of a smaller count are among those of a larger one
    return controls + others[:count]


def judged(outcome: Outcome, given: BadInput) -> Outcome:
    """An outcome, maybe of an earlier run, by what is expected now."""
    return replace(outcome, expected=given.expected)


def main() -> int:
    """Run what is asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bad_inputs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    parser.add_argument("--seconds", type=int, default=20, help="CPU time of a command")
    parser.add_argument("--count", type=int, default=None, help="only so many inputs, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    parser.add_argument("--only", default="", help="only inputs whose key holds this text")
    parser.add_argument("--again", default=None, help="run those anew that failed and whose key matches this pattern")
    parser.add_argument("--stage", type=Path, default=Path("bad_inputs_stage"), help="where inputs and outcomes stay")
    parser.add_argument("--table", type=Path, default=None, help="where the table of all outcomes so far goes")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    stage, outcomes = options.stage.absolute(), options.stage.absolute() / "outcomes.jsonl"
    stage.mkdir(parents=True, exist_ok=True)
    prepared(stage)
    inputs = corpus(stage)
    if options.again is not None:
        failed = {found.key for found in faults(known(outcomes).values()) if re.search(options.again, found.key)}
        forget(outcomes, failed)
        wanted = [given for given in inputs if given.key in failed]
    else:
        wanted = chosen(inputs, options.only, options.count, options.seed)
    found = run_all(wanted, outcomes, options.jobs, Limits(options.seconds)) if options.count != 0 else {}
    if options.table:
        found = known(outcomes)
        write(options.table, [judged(found[given.key], given) for given in inputs if given.key in found], len(inputs))
    wrong = list(faults(judged(found[given.key], given) for given in inputs if given.key in found))
    for outcome in wrong:
        print(f"{outcome.kind}: {outcome.key}\n    {outcome.said}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
