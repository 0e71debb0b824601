"""LightningCLI with fastgen's defaults, one-sentence errors and the sample command."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from typing import Any, NoReturn

import torch
import torch.distributed
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import fastgen.callbacks
import fastgen.denoisers
import fastgen.extras
import fastgen.methods
from fastgen.callbacks import WriteSamples
from fastgen.checkpoints import read_checkpoint
from fastgen.data import DistillationData
from fastgen.errors import UserError
from fastgen.methods import Distiller

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,
    "enable_checkpointing": False,  # fastgen.callbacks.Checkpoint counts student updates
    "use_distributed_sampler": False,  # data modules are indexed by global sample number
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}


COMPLAINTS = (
    (r"Option '(.+?)' is not accepted", "has no option '{0}'; remove it or mend its spelling."),
    (r"Expected a typing\.Literal\[(.+?)\]\. Got value: (.+)", "must be one of {0}, got '{1}'."),
    (r"Expected an? (?:<class ')?(.+?)(?:'>)?\. Got value: (.+)", "must be of type {0}, got '{1}'."),
    (r"Expected a path but (\S+) either", "'{0}' is no known class; give a class name of fastgen or module.Class."),
    (r"Multiple subclasses with name (\S+)\. Give the full class path to avoid ambiguity: (.+)", "write one of {1}"),
    (r"Import path (\S+) does not correspond to a subclass of (\S+)", "{0} is no {1}; give a class of that kind."),
    (r"module '(.+?)' has no attribute '(.+?)'", "there is no '{1}' in {0}; mend the name."),
    (r"No module named '(.+?)'", "there is no module '{0}'; install it or mend the name."),
    (r"the following arguments are required: (.+)", "lacks {0}; give it."),
    (r"File does not exist: '(.+?)'", "'{0}' does not exist; give the path of an existing file."),
    (r"unrecognized arguments: (.+)", "there is no option {0}; see 'fastgen COMMAND --help'."),
    (r"Expected '(.+?)' to be a subclass of <class '(.+?)'>", "{0} is no {1}; give a class of that kind."),
    (r"does not accept option '(.+?)'", "there is no option '{0}'; remove it or mend its spelling."),
)
"""Complaints of jsonargparse, most specific first, and what a user should read instead."""


def one_sentence(message: str) -> str:
    """The deepest known complaint in jsonargparse's nested message, after the dotted key that it is about."""
    keys: list[tuple[int, str]] = []
    known: tuple[int, str] | None = None
    other: tuple[int, str] | None = None
    for line in message.splitlines():
        text = line.lstrip(" -")
        indent = len(line) - len(text)
        if key := re.match(r'Parser key "(.+?)":', text):
            keys = [*(k for k in keys if k[0] < indent), (indent, key[1])]
        place = ".".join(k for _, k in keys)
        prefix = f"{place}: " if place else ""
        matches = ((re.search(pattern, text), sentence) for pattern, sentence in COMPLAINTS)
        match, sentence = next(((m, s) for m, s in matches if m and "NoneType" not in m[0]), (None, ""))
        if match and (known is None or indent > known[0]):
            joint = " " if place and sentence.startswith(("has ", "must ", "lacks ")) else ""
            known = indent, (prefix.rstrip(": ") + joint if joint else prefix) + sentence.format(*match.groups())
        elif line.lstrip().startswith("- ") and not text.startswith(("Expected a <class", "Parser key")):
            if other is None or indent > other[0]:
                other = indent, prefix + text
    return (known or other or (0, re.sub(r"\s+", " ", message.strip())))[1]


class ParserError(UserError):
    """What jsonargparse says, still in its nested form."""


class Parser(LightningArgumentParser):
    """Raises where argparse would print its usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParserError(message) from ex


NOISE = (
    r".*module\(s\) in eval mode at the start of training",  # the frozen teacher must be
    r".*does not have many workers which may be a bottleneck",  # small data sets are fastest without
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # inside Lightning
)
"""Beginnings of warnings that say nothing to a user of fastgen."""

TIPS = ("💡 Tip:", "TPU available: False")
"""Beginnings of such messages in Lightning's log."""


def is_worth_reading(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's log is none of ``TIPS``."""
    return not record.getMessage().startswith(TIPS)


def silence_noise() -> None:
    """Leave out what ``NOISE`` and ``TIPS`` name; every other warning and message stays."""
    for pattern in NOISE:
        warnings.filterwarnings("ignore", message=pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_worth_reading)


class CLI(LightningCLI):
    """``fastgen fit | validate | test | predict``."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without the choice to load pickles."""
        return {name: hidden | {"weights_only"} for name, hidden in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside model, data and trainer."""
        parser.add_argument(
            "--threads",
            type=int | None,
            default=None,
            help="CPU threads of each process; small networks are fastest with 1. null keeps torch's choice.",
        )

    def _parse_ckpt_path(self) -> None:
        """Look at ``--ckpt_path`` before anything is built, so that a bad file costs nothing."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path:
            read_checkpoint(path)

    def before_instantiate_classes(self) -> None:
        """Check what would fail late or never end."""
        config = self.config[self.config.subcommand]
        if config.get("threads"):
            torch.set_num_threads(config.threads)
        if self.config.subcommand == "fit":
            trainer = config.trainer
            endless = trainer.max_steps == -1 and trainer.max_time is None and trainer.max_epochs in (None, -1)
            if trainer.max_steps == 0 or trainer.max_steps < -1 or endless:
                raise UserError(
                    "trainer.max_steps must be at least 1 (student updates); data modules never end by themselves."
                )
            if trainer.accumulate_grad_batches != 1:
                raise UserError(
                    "trainer.accumulate_grad_batches cannot serve several optimizers; set model.init_args.micro_batches "
                    "(the number of pieces of each batch) and leave it at 1."
                )
            if trainer.gradient_clip_val is not None or trainer.gradient_clip_algorithm is not None:
                raise UserError(
                    "trainer.gradient_clip_val cannot serve several optimizers; set model.init_args.gradient_clip and "
                    "leave it null."
                )

    def instantiate_classes(self) -> None:
        """Build the cheap objects; networks are built later, on their device."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise ParserError(str(error)) from error
        dump = yaml.safe_load(self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False))
        self.model.recipe = dump["model"]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer whose ``predict`` writes files, also if the config does not say so."""
        trainer = super().instantiate_trainer(**kwargs)
        if self.subcommand == "predict" and not any(isinstance(c, WriteSamples) for c in trainer.callbacks):
            trainer.callbacks.append(WriteSamples())
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}


def run(words: list[str]) -> int:
    """Run a command; user errors become one sentence on stderr and exit code 2."""
    try:
        if words[0] == "sample":
            from fastgen.commands.sample import sample

            sample(words[1:])
        else:
            silence_noise()
            sys.argv = [sys.argv[0], *words]  # the first word stays: Lightning starts further processes with it
            CLI(
                Distiller,
                DistillationData,
                subclass_mode_model=True,
                subclass_mode_data=True,
                trainer_defaults=TRAINER_DEFAULTS | {"callbacks": [fastgen.callbacks.Progress()]},
                parser_class=Parser,
                save_config_kwargs={"overwrite": True},
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                seed_everything_default=0,
            )
    except (UserError, MisconfigurationException) as error:
        message = one_sentence(str(error)) if isinstance(error, ParserError) else str(error)
        print(f"fastgen: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
