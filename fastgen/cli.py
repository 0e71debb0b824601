"""LightningCLI with fastgen's defaults, one-sentence errors and the sample command."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from argparse import SUPPRESS
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import fastgen.callbacks
import fastgen.denoisers
import fastgen.extras
import fastgen.methods
from fastgen import checks
from fastgen.building import FROM_ARGUMENTS
from fastgen.callbacks import WriteSamples
from fastgen.callbacks.beginning import Beginning
from fastgen.callbacks.loggers import open_loggers, refuse_nonsense
from fastgen.callbacks.run_folder import OF_A_RUN, SaveConfig, next_version, refuse_used, set_aside
from fastgen.callbacks.surroundings import callbacks_of, log_folder
from fastgen.checkpoints import read_checkpoint
from fastgen.constructors import telling
from fastgen.data import DistillationData
from fastgen.diagnosis import diagnosing, refuse_unknown
from fastgen.documents import read_yaml
from fastgen.errors import ParserError, UserError
from fastgen.messages import as_sentence, one_sentence, shown
from fastgen.methods import Distiller
from fastgen.parsing import ClassesOnly
from fastgen.precision import refuse_half_precision
from fastgen.refusals import refused
from fastgen.trainer_options import refuse_options

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,
    "enable_checkpointing": False,  # fastgen.callbacks.Checkpoint counts student updates
    "use_distributed_sampler": False,  # data modules are indexed by global sample number
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}


class Parser(ClassesOnly, LightningArgumentParser):
    """Raises where argparse would print its usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ParserError(message) from ex

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Names the file that is no YAML, and what is wrong with it."""
        if os.path.exists(cfg_path):
            refuse_unknown(read_yaml(cfg_path), self)
        try:
            return super().parse_path(cfg_path, *args, **kwargs)
        except ParserError as error:
            if str(error).startswith("Unexpected config"):
                message = f"'{cfg_path}' is no mapping; begin it with 'trainer:', 'model:' and 'data:'."
                raise UserError(message) from error
            raise


NOISE = (
    r".*module\(s\) in eval mode at the start of training",  # the frozen teacher must be
    r".*does not have many workers which may be a bottleneck",  # small data sets are fastest without
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # inside Lightning
    r"FSDP2-wrapped module .* returned a view tensor",  # on which nothing works in place
    r"Grad strides do not match bucket view strides",  # 1x1 convolutions under DDP; the gradients are right
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


def brings_weights(model: Namespace) -> bool:
    """Whether a config's student reads weights of its own."""
    arguments = (model.init_args.get("student") or Namespace()).get("init_args") or Namespace()
    return any(arguments.get(name) is not None for name in ("weights", "pretrained"))


KEEPERS = (fastgen.callbacks.Checkpoint, LightningCheckpoint)
"""Callbacks that keep what is trained."""


def with_progress(callbacks: Callback | list[Callback] | None, shown: bool) -> list[Callback]:
    """The callbacks with one progress bar, or with none.

    Raises:
        UserError: If one of them is nothing but a callback, which does nothing.
    """
    given = callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]
    for number, callback in enumerate(given):
        if type(callback) is Callback:  # what arguments without a class become
            raise UserError(f"trainer.callbacks[{number}] is of no class; name it in class_path.")
    bars = [callback for callback in given if isinstance(callback, ProgressBar)]
    if not shown:
        return [callback for callback in given if callback not in bars]
    return given if bars else [*given, fastgen.callbacks.Progress()]


def by_class(callbacks: Any) -> dict[str, Any]:
    """Arguments of callbacks by their class (and name), as far as they were configured."""
    entries = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    named = {}
    for entry in entries:
        arguments = entry.get("init_args") or {}
        named[" ".join(filter(None, [entry["class_path"].rsplit(".", 1)[-1], arguments.get("name")]))] = arguments
    return named


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
        command, *words = sys.argv[1:]
        with diagnosing(words, self._subcommand_parsers[command]):
            super().parse_arguments(parser, args)

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
        checks.whole("Options", threads=config.get("threads"))
        if config.get("threads"):
            torch.set_num_threads(config.threads)
        if not isinstance(config.trainer, Namespace):
            raise UserError(f"trainer must be a mapping of options, got {shown(config.trainer)}.")
        refuse_options(self.config.subcommand, vars(config.trainer))
        if self.config.subcommand == "fit":
            refuse_half_precision(config.trainer.precision)  # on a CPU Lightning would take another without saying so
        elif config.get("ckpt_path") is None and not brings_weights(config.model):
            raise UserError(
                f"fastgen {self.config.subcommand} has no trained student; give --ckpt_path CKPT, or the weights of "
                "model.init_args.student."
            )
        for part in (config.model, config.data):
            if part.init_args.get("seed", 0) is None:
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
        options = self.config_init[self.subcommand].trainer
        options.callbacks = with_progress(options.callbacks, options.enable_progress_bar is not False)
        keeps = options.enable_checkpointing or any(isinstance(c, KEEPERS) for c in options.callbacks)
        if self.subcommand == "fit" and not keeps:
            options.callbacks.append(fastgen.callbacks.Checkpoint())  # a run that keeps nothing is in vain
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except RuntimeError as error:
            if twice := re.search(r"more than one stateful callback of type `(\w+)`", str(error)):
                raise UserError(
                    f"trainer.callbacks has two {twice[1]} of one name; remove one, or give it another 'name'."
                ) from error
            raise
        if not trainer.loggers:  # what runs leave belongs into a folder of their own, as loggers make one
            trainer._default_root_dir = str(next_version(trainer.default_root_dir))  # type: ignore[attr-defined]
        callbacks = callbacks_of(trainer)
        if self.subcommand == "fit":
            callbacks.append(Beginning())
        if self.subcommand == "predict" and not any(isinstance(c, WriteSamples) for c in callbacks):
            callbacks.append(WriteSamples())
        return trainer

    def before_fit(self) -> None:
        """Keep out of the folder of another run, before loggers delete what lies there."""
        trainer = self.trainer
        refuse_nonsense(trainer)
        folder, start = log_folder(trainer), self.config.fit.get("ckpt_path")  # all processes may have to agree on it
        homes = [c.folder(trainer) for c in callbacks_of(trainer) if isinstance(c, fastgen.callbacks.Checkpoint)]
        if trainer.is_global_zero:  # nobody writes before all processes have come this far
            refuse_used(folder, OF_A_RUN, start, *homes)
            set_aside(folder / "metrics.csv")
        open_loggers(trainer)

    def before_validate(self) -> None:
        """Try the loggers before anything is measured."""
        refuse_nonsense(self.trainer)
        open_loggers(self.trainer)

    before_test = before_validate

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}


def run(words: list[str]) -> int:
    """Run a command; user errors become one sentence on stderr and exit code 2."""
    set_parsing_settings(import_path_denylist=[])  # jsonargparse's own: os, subprocess, pickle, ... are not imported
    try:
        if words[0] == "sample":
            from fastgen.commands.sample import sample

            sample(words[1:])
        elif words[0] == "stats":
            from fastgen.commands.stats import stats

            stats(words[1:])
        elif words[0] == "pairs":
            from fastgen.commands.pairs import pairs

            silence_noise()
            pairs(words[1:])
        elif words[0] == "export":
            from fastgen.commands.export import export

            export(words[1:])
        else:
            silence_noise()
            sys.argv = [sys.argv[0], *words]  # the first word stays: Lightning starts further processes with it
            CLI(
                Distiller,
                DistillationData,
                subclass_mode_model=True,
                subclass_mode_data=True,
                trainer_defaults=TRAINER_DEFAULTS,
                parser_class=Parser,
                save_config_callback=SaveConfig,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                seed_everything_default=0,
            )
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        said = error if isinstance(error, UserError | MisconfigurationException) else refused(error)
        if said is None:
            raise
        message = one_sentence(str(said)) if isinstance(said, ParserError) else as_sentence(str(said))
        rank = getattr(rank_zero_only, "rank", None) or 0
        sys.stderr.write(f"fastgen{f' (rank {rank})' if rank else ''}: {message}\n")  # one call: ranks write at once
        return 2
    return 0
