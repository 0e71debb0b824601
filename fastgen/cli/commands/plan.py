"""``fastgen plan``: what a run will need and how long it will take, from its config alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ActionConfigFile, Namespace

from fastgen import checks
from fastgen.cli.parser import ConfigParser
from fastgen.configuration.constructors import telling
from fastgen.configuration.diagnosis import diagnosing
from fastgen.data import DistillationData
from fastgen.errors import ParserError, UserError
from fastgen.methods import Distiller
from fastgen.planning.cards import CARDS
from fastgen.planning.estimate import estimate
from fastgen.planning.page import Situation, page

IGNORED = ("threads", "seed_everything", "ckpt_path", "init_from")
"""What a config of ``fastgen fit`` holds beside; of no meaning here."""


def parser() -> ConfigParser:
    """The options; ``--config``, ``--model...`` and ``--data...`` are those of ``fastgen fit``."""
    found = ConfigParser(
        prog="fastgen plan",
        description="Memory, operations and hours of a run, from its config alone; no weights are read.",
        error_handler=None,
        exit_on_error=False,
    )
    found.add_argument("--config", action=ActionConfigFile, help="a config of 'fastgen fit'")
    found.add_lightning_class_args(Distiller, "model", subclass_mode=True, required=True)
    found.add_lightning_class_args(DistillationData, "data", subclass_mode=True, required=True)
    found.add_argument("--trainer", type=dict | None, default=None, help=argparse.SUPPRESS)
    for name in IGNORED:
        found.add_argument(f"--{name}", type=Any, default=None, help=argparse.SUPPRESS)
    found.add_argument("--card", type=str, default="H100", help=f"the GPU: {', '.join(CARDS)}")
    found.add_argument("--gpus", type=int, default=1, help="processes, one on each GPU")
    found.add_argument("--share", type=float, default=0.4, help="share of the stated speed that training reaches")
    found.add_argument(
        "--reserve", type=float, default=3.0, help="GiB of the card that no tensor gets: context, kernels, fragments"
    )
    return found


def plan(words: Sequence[str]) -> None:
    """Count and print.

    Raises:
        UserError: On bad options, or if the config cannot be built.
    """
    options = parser()
    with diagnosing(words, options):
        arguments = options.parse_args(list(words))
    checks.whole("fastgen plan", gpus=arguments.gpus)
    checks.positive("fastgen plan", share=arguments.share)
    checks.not_negative("fastgen plan", reserve=arguments.reserve)
    if arguments.card not in CARDS:
        raise UserError(f"--card is one of {', '.join(CARDS)}, got '{arguments.card}'.")
    try:
        wanted = Namespace(model=arguments.model, data=arguments.data)
        with telling(options, wanted):
            made = options.instantiate(wanted)
    except (ValueError, TypeError, ImportError) as error:
        raise ParserError(str(error)) from error
    method, data, trainer = made.model, made.data, arguments.trainer or {}
    for callback in trainer.get("callbacks") or []:
        if isinstance(callback, Mapping) and str(callback.get("class_path", "")).endswith("EMA"):
            method.request_average((callback.get("init_args") or {}).get("name", "ema"))
    sample = data.sources[0].batch([0])
    shapes = {name: tuple(sample[name].shape[1:]) for name in ("x0", "noise") if name in sample}
    found = estimate(method, shapes, data.batch_size, str(trainer.get("precision", "32-true")))
    if "x0" in shapes and shapes["x0"] != method.student.sample_shape:
        there, needed = shapes["x0"], method.student.sample_shape
        raise UserError(f"Samples of the data have the shape {there}, but the network is built for {needed}.")
    situation = Situation(arguments.card, arguments.gpus, arguments.share, arguments.reserve, dict(trainer))
    print(page(found, method, data.batch_size, situation))
