"""Every command in one table: what it is called, where it is written, what it does, whether it needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from textwrap import wrap


@dataclass(frozen=True)
class Command:
    """A word after ``fastgen``.

    Attributes:
        name: The word; also the name of the function that runs it.
        module: Where that function is; it is given the words after the command.
        does: What it does, in one line of help.
        example: How it is called.
        light: Whether it needs neither torch nor Lightning.
    """

    name: str
    module: str
    does: str
    example: str = ""
    light: bool = False

    def function(self) -> Callable[[Sequence[str]], object]:
        """What runs it. Nothing is imported before it is asked for."""
        found: Callable[[Sequence[str]], object] = getattr(import_module(self.module), self.name)
        return found


TRAINER = "fastgen.cli.lightning"
COMMANDS = {
    command.name: command
    for command in (
        Command("fit", TRAINER, "train a student (or a teacher):", "fastgen fit --config configs/sid_digits.yaml"),
        Command("validate", TRAINER, "losses on held-out data and sample metrics of a checkpoint"),
        Command("test", TRAINER, "the same on the test split"),
        Command("predict", TRAINER, "write samples of a checkpoint for the data module's conditions"),
        Command(
            "sample",
            "fastgen.cli.commands.sample",
            "a picture from a checkpoint alone, or with --layout geneval, dpg, vbench, hpsv3 or vqascore the folder "
            "that this judge's scripts read:",
            "fastgen sample --ckpt last.ckpt --seeds 0-63 --out grid.png",
        ),
        Command(
            "stats",
            "fastgen.cli.commands.stats",
            "features of real images, to compare samples with:",
            "fastgen stats --data FOLDER --extractor Inception --out reference.safetensors",
        ),
        Command(
            "plan",
            "fastgen.cli.commands.plan",
            "memory, operations and hours of a run, from its config alone:",
            "fastgen plan --config configs/dmd2_zimage.yaml --card H200",
        ),
        Command(
            "pairs",
            "fastgen.cli.commands.pairs",
            "noise and what a teacher's solver makes of it, to distil from:",
            "fastgen pairs --config configs/kd_digits.yaml --out pairs/digits --count 20000",
        ),
        Command(
            "stages",
            "fastgen.cli.commands.stages",
            "several of these, each from what earlier ones left, as one run:",
            "fastgen stages --config configs/stages/instaflow_mixture.yaml",
            light=True,
        ),
        Command(
            "export",
            "fastgen.cli.commands.export",
            "a student as a diffusers folder:",
            "fastgen export --ckpt last.ckpt --out my_student",
        ),
        Command(
            "compare",
            "fastgen.cli.commands.compare",
            "the final numbers of runs side by side:",
            "fastgen compare runs/sid_digits runs/dmd2_digits",
            light=True,
        ),
        Command(
            "report",
            "fastgen.cli.commands.report",
            "a page with samples, curves and settings of runs:",
            "fastgen report RUN1 RUN2 --out report",
            light=True,  # but where it must sample
        ),
        Command(
            "scores",
            "fastgen.cli.commands.scores",
            "read a judge's result file into a run's table:",
            "fastgen scores RUN geneval=results.jsonl",
            light=True,
        ),
    )
}
"""Commands by name, in the order of the help."""

HEAD = """usage: fastgen COMMAND [options]

fastgen turns a many-step diffusion or flow teacher into a student that needs one to eight network calls.

commands:
"""
TAIL = """
options:
  --help     this text; 'fastgen COMMAND --help' lists every option
  --version  the version

Several --config merge from left to right; options on the command line win. 'fastgen fit --config FILE --print_config'
shows the resolved configuration and builds nothing.
"""


def help_text() -> str:
    """What ``fastgen --help`` prints."""
    return HEAD + "".join(map(lines_of, COMMANDS.values())) + TAIL


def lines_of(command: Command) -> str:
    """A command in the help; its example stands on a line of its own where there is no room beside."""
    together = f"{command.does} {command.example}".strip()
    texts = [together] if len(together) <= 107 else [*wrap(command.does, 107), command.example]
    return "".join(f"  {command.name if i == 0 else '':10} {text}\n" for i, text in enumerate(texts))
