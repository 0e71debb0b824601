"""What one reads to follow or to extend the library: ``python -m benchmarks.reading [CHECKOUT ...]``.

For each checkout (default this one) it counts

- **DMD2 from YAML to gradient**: the files whose functions run in one student and one critic update of
  ``configs/dmd2_mixture.yaml``, and the lines of these functions, found by a profiler in a process of its own;
- **to add a method, a family, a metric, a command**: the files that hold what one overrides or registers, as the pages
  in ``docs`` name them; where there was no page, the base classes and tables. Files that a checkout lacks count
  nothing, so one list serves several layouts.

Written to ``benchmarks/results/reading.md``.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TASKS = {
    "a method with teacher and critic": [
        "fastgen/methods/base.py",  # until the engine had a room
        "fastgen/methods/score.py",
        "docs/a_method_in_one_file.md",
        "fastgen/distiller/base.py",
        "fastgen/distiller/score_term.py",
        "fastgen/objectives/score_forms.py",
    ],
    "a family of networks": [
        "fastgen/denoisers/base.py",
        "fastgen/denoisers/pipelines.py",  # before
        "fastgen/denoisers/pipeline_codec.py",
        "docs/a_family_in_one_file.md",
    ],
    "a metric of images": [
        "fastgen/metrics/base.py",
        "fastgen/metrics/image_suite.py",  # before: a suite knew its metrics
        "fastgen/report/kinds.py",  # before: and the report their names
        "docs/a_metric_in_one_file.md",
        "fastgen/metrics/samples/feature_metric.py",
    ],
    "a command": ["fastgen/cli.py", "fastgen/__main__.py", "fastgen/cli/table.py", "fastgen/cli/commands/parser.py"],
}
TRACE = """
import sys
root = sys.argv[1]
sys.path.insert(0, root)
from fastgen.__main__ import main
from fastgen.methods import DMD2
seen, original = set(), DMD2.training_step
def note(frame, event, argument):
    if event == "call" and frame.f_code.co_filename.startswith(root + "/fastgen/"):
        seen.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))
def step(self, batch, batch_idx):
    sys.setprofile(note)
    try:
        return original(self, batch, batch_idx)
    finally:
        sys.setprofile(None)
DMD2.training_step = step
options = ["--trainer.max_steps=2", "--trainer.callbacks=null", "--trainer.logger=false"]
sys.argv = ["fastgen", "fit", f"--config={root}/configs/dmd2_mixture.yaml", *options]
try:
    main()
except SystemExit:
    pass
print("\\n".join(f"TRACE {line} {file}" for file, line in sorted(seen)))
"""


def lines_of(path: Path) -> int:
    """Number of lines; 0 if there is no such file."""
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def traced(root: Path) -> tuple[int, int, int]:
    """Files, their lines, and the lines of the functions that run in DMD2's updates."""
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(
            [sys.executable, "-c", TRACE, str(root)], cwd=folder, capture_output=True, text=True, check=False
        )
    starts: dict[Path, set[int]] = {}
    for line in found.stdout.splitlines():
        if line.startswith("TRACE "):
            _, number, file = line.split(" ", 2)
            starts.setdefault(Path(file), set()).add(int(number))
    if not starts:
        raise SystemExit(f"Nothing ran in {root}: {found.stderr[-500:]}")
    ran = 0
    for path, numbers in starts.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                if numbers & {first, node.lineno}:
                    ran += (node.end_lineno or first) - first + 1
    return len(starts), sum(map(lines_of, starts)), ran


def commit_of(root: Path) -> str:
    """Its short commit, if git knows it."""
    answer = subprocess.run(["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def main() -> int:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkouts", type=Path, nargs="*", default=[ROOT], help="folders of checkouts; default this one"
    )
    roots = [root.resolve() for root in parser.parse_args().checkouts]
    rows = [["to follow or to add", *(commit_of(root) for root in roots)]]
    traces = [traced(root) for root in roots]
    rows.append(
        ["DMD2 from YAML to gradient", *(f"{f} files, {n} lines; {ran} of functions that run" for f, n, ran in traces)]
    )
    for task, files in TASKS.items():
        counts = [[n for file in files if (n := lines_of(root / file))] for root in roots]
        rows.append([task, *(f"{len(found)} files, {sum(found)} lines" for found in counts)])
    table = [f"| {' | '.join(row)} |" for row in rows]
    table.insert(1, "|---" * len(rows[0]) + "|")
    text = "\n".join(["# What one reads", "", "`python -m benchmarks.reading [CHECKOUT ...]`", "", *table, ""])
    (RESULTS / "reading.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
