"""Numbers and durations as people read them."""

from __future__ import annotations

import math


def digits(value: float | None, significant: int = 4) -> str:
    """``0.1515``, ``5000``, ``34,910``; nothing for ``None``."""
    if value is None:
        return ""
    if 9999.5 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    if math.isfinite(value) and value == round(value) and abs(value) < 1e9:
        return str(round(value))
    return f"{value:.{significant}g}"


def duration(seconds: float | None) -> str:
    """``45 s``, ``3.5 min``, ``2 h 05 min``, ``3 d 04 h``."""
    if seconds is None:
        return ""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def calls(nfe: int | None) -> str:
    """``1 call``, ``35 calls``."""
    return "" if nfe is None else f"{nfe} call{'s' if nfe != 1 else ''}"


def times(ratio: float | None) -> str:
    """``0.79x``, ``130x``; three figures at most."""
    if ratio is None:
        return ""
    return f"{ratio:.0f}x" if abs(ratio) >= 99.5 else f"{ratio:.1f}x" if abs(ratio) >= 9.95 else f"{ratio:.2f}x"
