"""``fastgen pairs``: noise and what a solver makes of it, in files to distil from."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ActionConfigFile, Namespace

from fastgen.callbacks.evaluation.unfinished import settings_of, weights_digest
from fastgen.cli.commands.conditions import conditions_of, slices
from fastgen.cli.commands.loading import check_device, method_on
from fastgen.cli.commands.parser import LARGEST, MOST_STEPS, shortened, whole
from fastgen.cli.noise import silence_noise
from fastgen.cli.pair_writing import PairWork, fill
from fastgen.cli.parser import ConfigParser
from fastgen.configuration.constructors import telling
from fastgen.configuration.diagnosis import diagnosing
from fastgen.errors import ParserError, UserError
from fastgen.methods import Distiller
from fastgen.refusals import refuse_unwritable
from fastgen.storage.pair_files import FORMAT, claim
from fastgen.storage.writing import remove_leftovers

FIT_OPTIONS = ("trainer", "data", "threads", "seed_everything", "ckpt_path", "init_from")
"""What a config of ``fastgen fit`` holds beside the model; of no meaning here."""


def parser() -> ConfigParser:
    """The options; ``--config`` and ``--model...`` are those of ``fastgen fit``."""
    found = ConfigParser(
        prog="fastgen pairs",
        description="Noise and what a solver makes of it, in files to distil from.",
        error_handler=None,
        exit_on_error=False,
    )
    found.add_argument(
        "--config", action=ActionConfigFile, help="a config of 'fastgen fit'; its teacher makes the pairs"
    )
    found.add_lightning_class_args(Distiller, "model", subclass_mode=True, required=False)
    for name in FIT_OPTIONS:
        kind = dict | None if name in ("trainer", "data") else Any  # Any would import the classes that it names
        found.add_argument(f"--{name}", type=kind, default=None, help=argparse.SUPPRESS)
    found.add_argument("--ckpt", type=str | None, default=None, help="make pairs with a checkpoint's network instead")
    found.add_argument(
        "--role", type=str | None, default=None, help="teacher (default), or average, student, ... of --ckpt"
    )
    found.add_argument(
        "--trust",
        action="append",
        default=[],
        help="build classes of this module too, if the checkpoint names them; may be repeated",
    )
    found.add_argument("--out", type=str, default="pairs", help="the folder; may be interrupted and repeated")
    found.add_argument("--count", type=int, default=10000, help="number of pairs")
    found.add_argument("--steps", type=int | None, default=None, help="steps of the solver; default as configured")
    found.add_argument(
        "--first-seed", type=int, default=10**9, help="seed of the first pair; far from the seeds of evaluations"
    )
    found.add_argument("--with-noise", action="store_true", help="store the noise too, not only its seed")
    found.add_argument("--labels", type=str | None, default=None, help="classes to cycle through, e.g. 0-9")
    found.add_argument(
        "--prompts", type=str | None, default=None, help="text file with one prompt per line to cycle through"
    )
    found.add_argument("--shard-size", type=int, default=4096, help="pairs per file")
    found.add_argument("--batch-size", type=int, default=256, help="pairs made at once")
    found.add_argument(
        "--part", type=str, default="0/1", help="i/n: make only every n-th shard, for n processes at once"
    )
    found.add_argument("--device", type=str, default="cuda" if torch.cuda.is_available() else "cpu")
    return found


def part_of(text: str) -> tuple[int, int]:
    """``i/n`` as two numbers.

    Raises:
        UserError: If the text is something else.
    """
    if found := re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text):
        part, parts = map(int, found.groups())
        if part < parts:
            return part, parts
    raise UserError(f"--part is i/n with i from 0 to n - 1, e.g. 0/4, got '{text}'.")


def source(options: Namespace, settings: ConfigParser) -> tuple[Distiller, str]:
    """The method whose network makes the pairs, and the network's role.

    Raises:
        UserError: If the options name none, or two.
    """
    if (options.ckpt is None) == (options.model is None):
        raise UserError("fastgen pairs: give either --config FILE (its teacher) or --ckpt CKPT.")
    role = options.role or "teacher"
    if options.ckpt is not None:
        return method_on(options.ckpt, options.device, role == "teacher", options.trust), role
    if role != "teacher":
        raise UserError(f"A config has no trained '{role}'; give --ckpt CKPT, or leave --role out.")
    try:
        wanted = Namespace(model=options.model)  # its teacher, no trainer
        with telling(settings, wanted):
            method: Distiller = settings.instantiate(wanted).model
    except (ValueError, TypeError, ImportError) as error:
        raise ParserError(str(error)) from error
    method.build_teacher()
    if method.teacher is None:
        raise UserError("The config has no teacher to make pairs with; give model.init_args.teacher.")
    return method.to(options.device), role


def pairs(words: Sequence[str]) -> None:
    """Write pairs to ``--out``; shards that are there already are not made again.

    Raises:
        UserError: On bad options, or if the folder was begun with others.
    """
    silence_noise()
    settings = parser()
    with diagnosing(words, settings):
        options = settings.parse_args(list(words))
    whole(count=options.count, shard_size=options.shard_size, batch_size=options.batch_size)
    whole(1, MOST_STEPS, steps=options.steps)
    whole(0, LARGEST - options.count, first_seed=options.first_seed)
    check_device(options.device)
    refuse_unwritable(options.out, folder=True)
    if options.threads is not None and (not isinstance(options.threads, int) or options.threads < 1):
        raise UserError(f"threads must be at least 1 or null, got {shortened(str(options.threads))}.")
    part, parts = part_of(options.part)
    if options.threads:
        torch.set_num_threads(options.threads)
    method, role = source(options, settings)
    network, out = method.network(role), Path(options.out)
    given = argparse.Namespace(prompt=[], prompts=options.prompts, labels=options.labels)
    asked = conditions_of(given, network, options.count)
    example = method.encode_condition(slices(asked, slice(0, 1)))
    claim(
        out,
        {
            "format": FORMAT,
            "count": options.count,
            "shard_size": options.shard_size,
            "first_seed": options.first_seed,
            "noise": options.with_noise,
            "sample_shape": list(network.sample_shape),
            "condition": sorted(example),
            "num_classes": network.num_classes,
            "labels": options.labels,
            "prompts": options.prompts,
            "network": f"{type(network).__name__} {weights_digest(network)[:16]}",
            "process": settings_of(network.process),
            "role": role,
            "sampler": settings_of(method.solver if role == "teacher" else method.sampler),
            "calls": method.evaluations(role, options.steps),
        },
    )
    remove_leftovers(out)
    starts = [
        start for start in range(0, options.count, options.shard_size) if start // options.shard_size % parts == part
    ]
    work = PairWork(method, role, options.steps, options.first_seed, options.with_noise, options.batch_size, asked)
    fill(out, [(start, min(start + options.shard_size, options.count)) for start in starts], options.shard_size, work)
    print(f"{options.count} pairs, {method.evaluations(role, options.steps)} network calls each: {out}")
