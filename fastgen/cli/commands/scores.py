"""``fastgen scores``: results of external judges into a run's table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastgen.cli.commands.parser import OptionParser, whole
from fastgen.errors import UserError
from fastgen.layouts.manifest import read_manifest
from fastgen.report.external import JUDGES, read_scores
from fastgen.report.run import find_run, read_run
from fastgen.report.table import comparison
from fastgen.results.kinds import Kind, written
from fastgen.results.records import read_json_lines
from fastgen.storage.files import write_text


def scores(words: Sequence[str]) -> None:
    """Add result files of GenEval, DPG-Bench, VBench, HPSv3 or VQAScore to a run's ``metrics.jsonl``.

    Reading a file again replaces what it gave before.

    Raises:
        UserError: If the run or a file is unusable, or it is not clear whose samples were judged.
    """
    parser = OptionParser("fastgen scores", description="Read result files of external judges into a run's table.")
    parser.add_argument("run", metavar="RUN", help="folder of the run that made the samples")
    parser.add_argument("files", nargs="+", metavar="JUDGE=FILE", help=f"JUDGE is one of {', '.join(JUDGES)}")
    parser.add_argument("--samples", default=None, help="folder of 'fastgen sample --layout' that was judged")
    parser.add_argument("--role", default=None, help="whose samples, if --samples is not given; default average")
    parser.add_argument("--nfe", type=int, default=None, help="their network calls, if --samples is not given")
    parser.add_argument("--updates", type=int, default=None, help="their student updates; default the run's last")
    arguments = parser.parse_args(list(words))
    whole(nfe=arguments.nfe)
    whole(0, updates=arguments.updates)
    run = read_run(find_run(arguments.run))
    made: dict[str, Any] = read_manifest(Path(arguments.samples)) if arguments.samples else {}
    role = arguments.role or made.get("role", "average")
    nfe = arguments.nfe or made.get("nfe") or the_only_nfe([m.nfe for m in run.measurements if m.role == role])
    if nfe is None:
        raise UserError(f"It is not clear how many network calls samples of '{role}' took; give --samples or --nfe.")
    updates = arguments.updates if arguments.updates is not None else made.get("student_updates", run.student_updates)
    at = [m for m in run.measurements if m.role == role and m.student_updates == updates]

    rows = []
    for pair in arguments.files:
        judge, equals, path = pair.partition("=")
        if not equals:
            raise UserError(f"'{pair}' names no judge; write e.g. geneval=results.jsonl.")
        values, count = read_scores(judge, path)
        rows.append(
            {
                "student_updates": updates,
                "training_seconds": next((m.training_seconds for m in at), None),
                "role": role,
                "steps": next((m.steps for m in at if m.nfe == nfe), None),
                "nfe": nfe,
                "count": count or None,
                "fingerprint": f"external:{judge}",
                "values": values,
                "kinds": written(dict.fromkeys(values, Kind("judge", "higher"))),
                "ratio_to_teacher": {},
            }
        )
    path = run.folder / "metrics.jsonl"
    # The lines are kept as they are; only earlier results of the same judges on the same samples go.
    kept = [line for line in read_json_lines(path)[0] if not any(replaces(row, line) for row in rows)]
    write_text(path, "".join(json.dumps(row) + "\n" for row in [*kept, *rows]))
    print(comparison([read_run(run.folder)]), end="")


def replaces(row: dict[str, Any], line: dict[str, Any]) -> bool:
    """Whether a line of ``metrics.jsonl`` is an earlier reading of ``row``."""
    return all(line.get(key) == row[key] for key in ("fingerprint", "role", "nfe", "student_updates"))


def the_only_nfe(known: Sequence[int | None]) -> int | None:
    """The network calls that all measurements agree on, if they do."""
    numbers = {nfe for nfe in known if nfe is not None}
    return numbers.pop() if len(numbers) == 1 else None
