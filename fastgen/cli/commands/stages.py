"""``fastgen stages``: one run of several commands, each of which goes on from what earlier ones left."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from fastgen.cli.commands.parser import OptionParser
from fastgen.cli.stage_runs import run_plan
from fastgen.refusals import refuse_unwritable
from fastgen.storage.stage_files import read_plan


def stages(words: Sequence[str]) -> None:
    """Run what a plan says; what is done already is not done again, what was interrupted goes on.

    Raises:
        UserError: If the plan is wrong, or its folder was begun with another one.
    """
    parser = OptionParser("fastgen stages", description=__doc__)
    parser.add_argument("--config", required=True, help="the plan, e.g. configs/stages/instaflow_mixture.yaml")
    parser.add_argument("--out", default=None, help="folder of all stages; default the plan's; may be repeated")
    arguments = parser.parse_args(list(words))
    plan = read_plan(Path(arguments.config), arguments.out)
    refuse_unwritable(str(plan.out), folder=True)
    if code := run_plan(plan, in_a_process):
        raise SystemExit(code)
    print(f"{len(plan.stages)} stages are done: {plan.out}")


def in_a_process(words: list[str]) -> int:
    """Run a command by itself: its memory is gone afterwards, and it may start one process for every device.

    Ctrl-C in a terminal reaches it anyway; SIGTERM is passed on, so that it saves what it has.
    """
    process = subprocess.Popen([sys.executable, "-m", "fastgen", *words])

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            process.terminate()

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code
