"""What samples from a checkpoint alone are to show: labels or prompts, in turn."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from fastgen.cli.commands.parser import integers
from fastgen.data.prompts import read_prompts
from fastgen.denoisers.base import Denoiser
from fastgen.errors import UserError


def conditions(network: Denoiser, count: int, labels: Sequence[int], prompts: Sequence[str]) -> dict[str, Any]:
    """One condition per sample.

    Args:
        network: What will be told them.
        count: Number of samples.
        labels: Classes to cycle through; none for all that there are.
        prompts: Texts to cycle through.

    Raises:
        UserError: If the network takes something else.
    """
    if network.takes_prompts:
        if not prompts:
            raise UserError(
                "This checkpoint makes pictures from text; give prompts (--prompt TEXT or --prompts FILE, in Python "
                "prompts=[...])."
            )
        return {"prompt": [prompts[i % len(prompts)] for i in range(count)]}
    if prompts:
        raise UserError("This checkpoint takes no prompts; leave them (--prompt, --prompts) out.")
    if not network.num_classes:
        if labels:
            raise UserError("This checkpoint takes no labels; leave them (--labels) out.")
        return {}
    labels = labels or range(network.num_classes)
    if wrong := [label for label in labels if not 0 <= label < network.num_classes]:
        raise UserError(
            f"Labels (--labels) must be below {network.num_classes}, the number of classes, got {wrong[0]}."
        )
    return {"label": torch.tensor([labels[i % len(labels)] for i in range(count)])}


def conditions_of(arguments: argparse.Namespace, network: Denoiser, count: int) -> dict[str, Any]:
    """Those that the options ``--prompt``, ``--prompts`` and ``--labels`` ask for."""
    prompts = list(arguments.prompt)
    if arguments.prompts:
        prompts += read_prompts(arguments.prompts) if network.takes_prompts else [arguments.prompts]
    return conditions(network, count, integers(arguments.labels) if arguments.labels else [], prompts)


def slices(condition: dict[str, Any], rows: slice) -> dict[str, Any]:
    """The condition of some samples."""
    return {name: value[rows] for name, value in condition.items()}
