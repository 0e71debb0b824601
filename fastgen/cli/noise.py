"""Warnings and messages of libraries that say nothing to a user of fastgen."""

from __future__ import annotations

import logging
import warnings

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
