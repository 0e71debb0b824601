"""Options of the trainer that cannot do what they say, refused before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fastgen import checks
from fastgen.errors import UserError

NEVER: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (
        1,
        "cannot serve several optimizers; leave it at 1 and set model.init_args.micro_batches, the number of pieces of "
        "each batch.",
    ),
    "gradient_clip_val": (
        None,
        "cannot serve several optimizers; leave it null and set model.init_args.gradient_clip.",
    ),
    "gradient_clip_algorithm": (
        None,
        "cannot serve several optimizers; leave it null and set model.init_args.gradient_clip.",
    ),
    "overfit_batches": (
        0.0,
        "puts another sample order in the place of the data module's; leave it at 0 and give a data module with few "
        "samples.",
    ),
    "fast_dev_run": (
        False,
        "leaves out the logger, so that the run has no folder; leave it false and set trainer.max_steps to 2 and "
        "trainer.limit_val_batches to 1.",
    ),
    "model_registry": (
        None,
        "is where Lightning's own checkpoints are handed in, which fastgen does not write; leave it null and hand in "
        "student.safetensors yourself.",
    ),
    "barebones": (
        False,
        "forbids the callbacks that save and log; leave it false, and measure speed with the callback Throughput.",
    ),
}
"""Options that no command supports: their value when they are not used, and why."""

MEASURES = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}
"""What limits the batches of the commands that do not train."""


def refuse_options(command: str, options: Mapping[str, Any]) -> None:
    """Check the trainer's options for ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        UserError: For an option that would be ignored, would train or measure nothing, or would never end.
    """
    for name, (unused, why) in NEVER.items():
        if options[name] not in (unused, None):
            raise UserError(f"trainer.{name} {why}")
    for name, value in options.items():
        if isinstance(value, int) and abs(value) > checks.LARGEST_INTEGER:
            raise UserError(f"trainer.{name} must be at most {checks.LARGEST_INTEGER}, got {checks.written(value)}.")
    if command == "fit":
        checks.whole("trainer", 0, min_epochs=options["min_epochs"], min_steps=options["min_steps"])
        refuse_epochs(options)
        refuse_endless(options)
        refuse_validation(options)
    elif (limit := options[MEASURES[command]]) is not None and limit <= 0:
        raise UserError(f"trainer.{MEASURES[command]} is {limit}, so nothing is measured; leave it out.")


def refuse_epochs(options: Mapping[str, Any]) -> None:
    """An epoch is ``limit_train_batches`` batches; without that the first one lasts for ever."""
    limit = options["limit_train_batches"]
    if isinstance(limit, float) and limit == 1.0:
        limit = None
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise UserError(
            f"trainer.limit_train_batches is {limit}; data modules never end by themselves, so an epoch has no share: "
            "give the number of its batches, at least 1."
        )
    if options["max_epochs"] == 0:
        raise UserError("trainer.max_epochs is 0, so nothing is trained; set trainer.max_steps (student updates).")
    if limit is None:
        counts = {"check_val_every_n_epoch": (None, 1), "reload_dataloaders_every_n_epochs": (None, 0)}
        for name, unused in counts.items():
            if options[name] not in unused:
                raise UserError(
                    f"trainer.{name} counts epochs, but data modules never end by themselves; set "
                    "trainer.limit_train_batches, the batches of an epoch, or trainer.val_check_interval (batches)."
                )


def refuse_endless(options: Mapping[str, Any]) -> None:
    """A run has an end that is not its beginning."""
    epochs = options["max_epochs"] not in (None, -1) and options["limit_train_batches"] not in (None, 1.0)
    endless = options["max_steps"] == -1 and options["max_time"] is None and not epochs
    if options["max_steps"] == 0 or options["max_steps"] < -1 or endless:
        raise UserError(
            "trainer.max_steps must be at least 1 (student updates), for data modules never end by themselves; or set "
            "trainer.max_time, or trainer.max_epochs with trainer.limit_train_batches, the batches of an epoch."
        )
    if options["max_time"] is not None and duration(options["max_time"]) <= timedelta(0):
        raise UserError("trainer.max_time is over at once; give days:hours:minutes:seconds, e.g. 00:02:00:00.")


def duration(value: Any) -> timedelta:
    """``max_time`` as Lightning reads it.

    Raises:
        UserError: If it is no duration.
    """
    try:
        if isinstance(value, str):
            days, hours, minutes, seconds = (int(part) for part in value.strip().split(":"))
            return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        return value if isinstance(value, timedelta) else timedelta(**value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"trainer.max_time is '{value}'; give days:hours:minutes:seconds, e.g. 00:02:00:00.") from error


def refuse_validation(options: Mapping[str, Any]) -> None:
    """``val_check_interval`` counts batches and must come within an epoch."""
    interval, limit = options["val_check_interval"], options["limit_train_batches"]
    if interval in (None, 1.0) or not isinstance(interval, int | float):
        return
    if isinstance(interval, float) or interval < 1:
        raise UserError(
            f"trainer.val_check_interval is {interval}; data modules never end by themselves, so there is no share of "
            "an epoch: give a number of batches, at least 1."
        )
    if isinstance(limit, int) and interval > limit and options["check_val_every_n_epoch"] is not None:
        raise UserError(
            f"trainer.val_check_interval is {interval}, but an epoch has only {limit} batches "
            "(trainer.limit_train_batches); set trainer.check_val_every_n_epoch to null to count across epochs."
        )
