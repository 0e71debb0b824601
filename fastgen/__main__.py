"""The ``fastgen`` command. Answers ``--version`` and bare ``--help`` without importing torch or Lightning."""

from __future__ import annotations

import sys

from fastgen import __version__

HELP = """usage: fastgen COMMAND [options]

fastgen turns a many-step diffusion or flow teacher into a student that needs one to eight network calls.

commands:
  fit        train a student (or a teacher): fastgen fit --config configs/sid_digits.yaml
  validate   losses on held-out data and sample metrics of a checkpoint
  test       the same on the test split
  predict    write samples of a checkpoint for the data module's conditions
  sample     a picture from a checkpoint alone: fastgen sample --ckpt last.ckpt --seeds 0-63 --out grid.png
             (--layout geneval, dpg, vbench, hpsv3 or vqascore: the folder that this judge's scripts read)
  stats      features of real images, to compare samples with: fastgen stats --data FOLDER --extractor Inception
             --out reference.safetensors
  pairs      noise and what a teacher's solver makes of it, to distil from:
             fastgen pairs --config configs/kd_digits.yaml --out pairs/digits --count 20000
  export     a student as a diffusers folder: fastgen export --ckpt last.ckpt --out my_student
  compare    the final numbers of runs side by side: fastgen compare runs/sid_digits runs/dmd2_digits
  report     a page with samples, curves and settings of runs: fastgen report RUN1 RUN2 --out report
  scores     read a judge's result file into a run's table: fastgen scores RUN geneval=results.jsonl

options:
  --help     this text; 'fastgen COMMAND --help' lists every option
  --version  the version

Several --config merge from left to right; options on the command line win. 'fastgen fit --config FILE --print_config'
shows the resolved configuration and builds nothing.
"""

LIGHT = ("compare", "report", "scores")
"""Commands that read run folders and need neither torch nor Lightning (a report does if it must sample)."""
COMMANDS = ("fit", "validate", "test", "predict", "sample", "pairs", "stats", "export", *LIGHT)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 good, 2 the user's mistake, 130 interrupted)."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"fastgen {__version__}")
        return 0
    if words[0] not in COMMANDS:
        from fastgen.messages import near, short

        said = f"'{short(words[0])}' is no command{near(words[0], COMMANDS)}; choose one of: {', '.join(COMMANDS)}."
        print(f"fastgen: {said}", file=sys.stderr)
        return 2
    if words[0] in LIGHT:
        from fastgen.commands.light import run as run_light

        return run_light(words)
    from fastgen.cli import run

    return run(words)


if __name__ == "__main__":
    sys.exit(main())
