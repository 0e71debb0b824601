"""What differs between configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = object()


def flatten(value: Any, place: str = "") -> dict[str, Any]:
    """Leaves of a nested value by dotted key.

    An object is keyed by its place, with its class as the value (``fastgen`` before it left out) and its arguments
    below. An object in a list is keyed by its class, so that callbacks are compared with their like, wherever they
    stand; other lists are compared entry by entry. Empty mappings and lists are leaves.
    """
    if isinstance(value, Mapping) and value:
        items = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list) and value and any(isinstance(part, Mapping | list) for part in value):
        items = []
        for i, part in enumerate(value):
            kind = str(part.get("class_path", "")).split(".")[-1] if isinstance(part, Mapping) else ""
            key = f"[{kind}]" if kind else f"[{i}]"
            while any(key == other for other, _ in items):
                key += "'"
            items.append((key, part))
    else:
        return {place: value}
    leaves: dict[str, Any] = {}
    for key, part in items:
        joint = "" if not place or key.startswith("[") else "."
        if place and key == "class_path" and isinstance(part, str):
            leaves[place] = part.split(".")[-1] if part.startswith("fastgen.") else part
        elif place and key == "init_args":
            leaves |= flatten(part, place) if part else {}
        else:
            leaves |= flatten(part, f"{place}{joint}{key}")
    return leaves


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[Any, ...]]]:
    """Keys whose values are not the same everywhere, with one value per configuration (or ``MISSING``)."""
    flat = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for leaves in flat for key in leaves)
    rows = ((key, tuple(leaves.get(key, MISSING) for leaves in flat)) for key in keys)
    return [(key, values) for key, values in rows if any(not same(value, values[0]) for value in values[1:])]


def same(one: Any, other: Any) -> bool:
    """Equal, where ``1`` and ``1.0`` are and ``1`` and ``True`` are not."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    return one is other or one == other


def written(value: Any) -> str:
    """A leaf as YAML would have it, in one line."""
    if value is MISSING:
        return "-"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(written(part) for part in value)}]"
    return str(value) if value != "" else "''"
