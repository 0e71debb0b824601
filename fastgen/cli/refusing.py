"""What a config of the trainer's commands must not say."""

from __future__ import annotations

from jsonargparse import Namespace

from fastgen import checks
from fastgen.cli.trainer_options import refuse_options
from fastgen.errors import UserError
from fastgen.messages import shown
from fastgen.precision import refuse_half_precision


def refuse(command: str, config: Namespace) -> None:
    """Check a parsed config before anything is built from it.

    Raises:
        UserError: For what would be ignored, fail late or never end.
    """
    checks.whole("Options", threads=config.get("threads"))
    if not isinstance(config.trainer, Namespace):
        raise UserError(f"trainer must be a mapping of options, got {shown(config.trainer)}.")
    refuse_options(command, vars(config.trainer))
    if command == "fit":
        refuse_half_precision(config.trainer.precision)  # on a CPU Lightning would take another without saying so
    elif config.get("ckpt_path") is None and not brings_weights(config.model):
        raise UserError(
            f"fastgen {command} has no trained student; give --ckpt_path CKPT, or the weights of "
            "model.init_args.student."
        )


def brings_weights(model: Namespace) -> bool:
    """Whether a config's student reads weights of its own."""
    arguments = (model.init_args.get("student") or Namespace()).get("init_args") or Namespace()
    return any(arguments.get(name) is not None for name in ("weights", "pretrained"))
