"""Command line of the fuzzer.

    python -m benchmarks.bad_inputs --jobs 2

runs every input that has no outcome yet, writes ``benchmarks/results/bad_inputs.md`` and exits with 1 if one ended in a
traceback, was stopped, was refused in words that are no sentence, or was accepted without a reason.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.bad_inputs.inputs import BadInput
from benchmarks.bad_inputs.runner import Limits, run_all
from benchmarks.bad_inputs.table import faults, write


def corpus(stage: Path) -> list[BadInput]:
    """Every input, in the order of the table."""
    from benchmarks.bad_inputs import commands, configs

    groups = (configs.good_inputs, configs.key_inputs, commands.command_inputs)
    return [given for group in groups for given in group(stage)]


def main() -> int:
    """Run what is asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bad_inputs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    parser.add_argument("--seconds", type=int, default=20, help="CPU time of a command")
    parser.add_argument("--every", type=int, default=1, help="only every n-th input")
    parser.add_argument("--only", default="", help="only inputs whose key holds this text")
    parser.add_argument("--stage", type=Path, default=Path("bad_inputs_stage"), help="where inputs and outcomes stay")
    parser.add_argument("--table", type=Path, default=None, help="where the table goes")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    stage = options.stage.absolute()
    stage.mkdir(parents=True, exist_ok=True)
    inputs = [given for given in corpus(stage) if options.only in given.key][:: options.every]
    found = run_all(inputs, stage / "outcomes.jsonl", options.jobs, Limits(options.seconds))
    for outcome in faults(found.values()):
        print(f"{outcome.kind}: {outcome.key}\n    {outcome.said}")
    if options.table:
        write(options.table, list(found.values()))
    return int(any(True for _ in faults(found.values())))


if __name__ == "__main__":
    sys.exit(main())
