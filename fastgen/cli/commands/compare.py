"""``fastgen compare``: the final numbers of runs side by side."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence

from fastgen.cli.commands.parser import OptionParser
from fastgen.report.run import read_runs
from fastgen.report.summary import as_json
from fastgen.report.table import comparison


def compare(words: Sequence[str]) -> None:
    """Print a table of the final numbers of runs: per role and network calls, with the ratio to the teacher.

    A fidelity number is shown only with a coverage number of the same samples.

    Raises:
        UserError: If a folder is no run.
    """
    parser = OptionParser("fastgen compare", description="The final numbers of runs side by side.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, e.g. runs/sid_digits/version_0")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(list(words))
    runs = read_runs(arguments.runs)
    if arguments.json:
        print(json.dumps(as_json(runs), indent=2))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(comparison(runs, width), end="")
