"""Inputs that look bad and make sense: patterns of their keys, each with the reason."""

from __future__ import annotations

import re

SENSIBLE: tuple[tuple[str, str], ...] = (
    (r"keys: .+ = None", "null is what the argument's type says, or what its default is"),
    (
        r"keys: \w+\.(sampler|critic_sampler|critic_time|time) = #5 dict",
        "arguments alone belong to the default's class",
    ),
    (r"keys: Evaluate\.name = .+", "a name is free; a Checkpoint that monitors the old one says so"),
    (r"keys: \w+\.guidance_scale = 0(\.0)?", "the scale of the prediction without a condition"),
    (r"keys: Checkpoint\.every_n_steps = 0", "documented: 0 is for none"),
    (r"keys: TensorBoardLogger\.flush_secs = .+", "not the library's: a logger that writes at its end only"),
)
"""The whole key must match the pattern."""


def reason(key: str) -> str | None:
    """Why an input may be accepted; ``None`` if nothing speaks for it."""
    return next((why for pattern, why in SENSIBLE if re.fullmatch(pattern, key)), None)
