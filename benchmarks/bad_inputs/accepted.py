"""Inputs that look bad and make sense: patterns of their keys, each with the reason."""

from __future__ import annotations

import re

SENSIBLE: tuple[tuple[str, str], ...] = (
    (
        r"keys: \w+\.(sampler|critic_sampler|critic_time|time|times|loss|objective|solver) = #5 dict",
        "arguments alone belong to the default's class",
    ),
    (r"keys: Evaluate\.name = .+", "a name is free; a Checkpoint that monitors the old one says so"),
    (r"keys: \w+\.(dirpath|save_dir|prefix|version|negative_prompt) = ('no such thing'|'')", "a text is free"),
    (r"keys: MLP\.depth = 0", "a network of its first and its last layer"),
    (
        r"keys: \w+\.(guidance_scale|guidance|guidance\.(teacher|critic|sampling|low)) = 0(\.0)?",
        "the scale of the prediction without a condition",
    ),
    (r"keys: (Checkpoint|Evaluate)\.every_n_steps = 0", "documented: 0 is for none"),
    (r"keys: (Extra\.start|PiFlow\.mixing_updates) = 0", "from the beginning"),
    (r"keys: LogNormalLevel\.mean = .+", "any number is a mean"),
    (r"keys: LogNormalLevel\.std = 0\.0", "one level"),
    (r"keys: (WithinChain\.floor|Health\.skipped|MixedVelocity\.kappa) = 0\.0", "in its range: none of it"),
    (r"keys: threads = None", "documented: torch's choice"),
    (r"keys: Reward\.margin = -1", "rewards may be negative"),
    (r"keys: EasyTimes\.largest_ratio = 0\.0", "in its documented range: every jump leads to data"),
    (r"keys: UniformStep\.(low|high) = 0", "a process has a step 0"),
    (r"keys: MixedVelocity\.high = 0\.0", "an interval without times: the plain velocity"),
    (r"keys: (SampleGrid\.teacher_steps|trainer\.(plugins|logger)) = \[\]", "none of them"),
    (r"keys: LinearLR\.end_factor = 0\.0", "torch's: the rate falls to zero"),
)
"""The whole key must match the pattern."""


def reason(key: str) -> str | None:
    """Why an input may be accepted; ``None`` if nothing speaks for it."""
    return next((why for pattern, why in SENSIBLE if re.fullmatch(pattern, key)), None)
