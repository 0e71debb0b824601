"""Cards that plans are made for: memory and speed as their maker states them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        gib: Memory.
        tflops: Dense products in bf16, 10^12 operations a second.
    """

    gib: float
    tflops: float


CARDS = {
    "RTX4090": Card(24, 165),
    "L40S": Card(48, 362),
    "A100": Card(80, 312),
    "H100": Card(80, 989),
    "H200": Card(141, 989),
    "B200": Card(180, 2250),
}
"""By name. What is free for tensors is less: see ``--reserve``."""
