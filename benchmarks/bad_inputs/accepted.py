"""Inputs that look bad and make sense: patterns of their keys, each with the reason."""

from __future__ import annotations

import re

SENSIBLE: tuple[tuple[str, str], ...] = ((r"keys: .+ = None", "an optional argument that is left out"),)
"""The whole key must match the pattern."""


def reason(key: str) -> str | None:
    """Why an input may be accepted; ``None`` if nothing speaks for it."""
    return next((why for pattern, why in SENSIBLE if re.fullmatch(pattern, key)), None)
