"""LightningCLI with fastgen's options, checks and one-sentence errors."""

from __future__ import annotations

import re
import warnings
from argparse import SUPPRESS
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from fastgen import checks
from fastgen.checkpoints.reading import read_checkpoint
from fastgen.cli.refusing import refuse
from fastgen.cli.trainer import by_class, claim_folder, complete, prepare, try_loggers
from fastgen.configuration.building import FROM_ARGUMENTS
from fastgen.configuration.constructors import telling
from fastgen.configuration.diagnosis import diagnosing
from fastgen.errors import ParserError, UserError


class CLI(LightningCLI):
    """A command that builds a method, its data and a trainer from configs, and has the trainer run."""

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

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="Checkpoint whose weights (student, critic, averages) a new run starts from; to go on with a run, "
            "give --ckpt_path."
            if subcommand == "fit"
            else SUPPRESS,  # it stands in the config of a run, which measures what the run became
        )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Says of what is refused where it stands and what would do."""
        command, *words = args
        with diagnosing(words, self._subcommand_parsers[command]):
            self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Look at ``--ckpt_path`` before anything is built, so that a bad file costs nothing."""
        path = self.config[self.config.subcommand].get("ckpt_path")
        start = self.config[self.config.subcommand].get("init_from")
        if start and self.config.subcommand == "fit":
            if path:
                raise UserError(
                    "--init_from starts a new run and --ckpt_path goes on with one; give only one of them (--init_from "
                    "null, if it stands in the config)."
                )
            read_checkpoint(start)
        self.saved_averages: list[str] = read_checkpoint(path)["fastgen"]["averages"] if path else []

    def before_instantiate_classes(self) -> None:
        """Check what would fail late or never end."""
        config = self.config[self.config.subcommand]
        refuse(self.config.subcommand, config)
        if config.get("threads"):
            torch.set_num_threads(config.threads)
        for part in (config.model, config.data):
            if part.init_args.get("seed", 0) in (None, "seed_everything"):  # a module of the user's may say null
                part.init_args.seed = int(config.seed_everything)  # False is 0, too

    def _set_seed(self) -> None:
        """Refuse what numpy and torch cannot take."""
        seed = self.config[self.config.subcommand].seed_everything
        if not isinstance(seed, bool):
            checks.seed("Options", seed_everything=seed)
        super()._set_seed()

    def instantiate_classes(self) -> None:
        """Build the cheap objects; networks are built later, on their device."""
        try:
            parser = self._parser(self.subcommand)
            with telling(parser, self.config[self.subcommand]):
                super().instantiate_classes()
        except (*FROM_ARGUMENTS, MisconfigurationException) as error:
            raise ParserError(str(error)) from error
        if self.subcommand == "fit":
            self.model.try_out_optimizers()
        dump = yaml.safe_load(parser.dump(self.config[self.subcommand], skip_none=False))
        self.model.recipe = dump["model"]
        self.model.settings = {
            "data": dump.get("data"),
            "callbacks": by_class(dump["trainer"].get("callbacks")),
            "precision": dump["trainer"].get("precision"),
        }
        self.model.init_from = dump.get("init_from") if self.subcommand == "fit" else None
        if self.subcommand != "fit":  # the averages in the checkpoint are asked for, whatever callbacks there are
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks")
            for name in self.saved_averages:
                self.model.request_average(name)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer with a progress bar and whose ``predict`` writes files, also if the config does not say so."""
        complete(self.config_init[self.subcommand].trainer, str(self.subcommand))
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except RuntimeError as error:
            if twice := re.search(r"more than one stateful callback of type `(\w+)`", str(error)):
                raise UserError(
                    f"trainer.callbacks has two {twice[1]} of one name; remove one, or give it another 'name'."
                ) from error
            raise
        prepare(trainer, str(self.subcommand))
        return trainer

    def before_fit(self) -> None:
        """Keep out of the folder of another run."""
        claim_folder(self.trainer, self.config.fit.get("ckpt_path"))

    def before_validate(self) -> None:
        """Try the loggers before anything is measured."""
        try_loggers(self.trainer)

    before_test = before_validate

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}
