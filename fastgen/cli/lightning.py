"""``fastgen fit | validate | test | predict``: what Lightning's trainer does, from configs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import set_parsing_settings

import fastgen.callbacks  # these rooms are imported so that configs may name their classes shortly
import fastgen.denoisers
import fastgen.extras
import fastgen.metrics  # noqa: F401
from fastgen.callbacks.run_folder import SaveConfig
from fastgen.cli.lightning_cli import CLI
from fastgen.cli.noise import silence_noise
from fastgen.cli.parser import ConfigParser
from fastgen.cli.trainer import TRAINER_DEFAULTS
from fastgen.data import DistillationData
from fastgen.methods import Distiller


def only(command: str) -> type[CLI]:
    """A command line that knows one command: the options of each are many and take long to collect."""

    class Only(CLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {command: CLI.subcommands()[command]}

    return Only


def run(command: str, words: Sequence[str]) -> CLI:
    """Build what the words say and have the trainer run it."""
    set_parsing_settings(import_path_denylist=[])  # jsonargparse's own: os, subprocess, pickle, ... are not imported
    return only(command)(
        Distiller,
        DistillationData,
        subclass_mode_model=True,
        subclass_mode_data=True,
        trainer_defaults=TRAINER_DEFAULTS,
        parser_class=ConfigParser,
        save_config_callback=SaveConfig,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        seed_everything_default=0,
        args=[command, *words],
    )


def from_command_line(command: str, words: Sequence[str]) -> None:
    """As :func:`run`, in a process that Lightning may start again for every device."""
    silence_noise()
    sys.argv = [sys.argv[0], command, *words]
    run(command, words)


def fit(words: Sequence[str]) -> None:
    """Train."""
    from_command_line("fit", words)


def validate(words: Sequence[str]) -> None:
    """Losses on held-out data and sample metrics of a checkpoint."""
    from_command_line("validate", words)


def test(words: Sequence[str]) -> None:
    """The same on the test split."""
    from_command_line("test", words)


def predict(words: Sequence[str]) -> None:
    """Write samples."""
    from_command_line("predict", words)
