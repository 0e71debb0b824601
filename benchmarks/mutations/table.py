"""The result as Markdown."""

from __future__ import annotations

import datetime
from collections import Counter
from importlib.metadata import version
from typing import Any


def table(rows: dict[str, list[dict[str, Any]]], python: str) -> str:
    """Counts per room, then every mutation that lives or cannot be noticed."""
    total: Counter[str] = Counter()
    lines = ["| room | mutations | killed | alive | equivalent | noticed | before |", "|---|---|---|---|---|---|---|"]
    for room, found in [*sorted(rows.items()), ("all", [row for part in rows.values() for row in part])]:
        count = Counter(row["outcome"] for row in found)
        counted = count["killed"] + count["alive"]
        share = f"{100 * count['killed'] / counted:.1f} %" if counted else ""
        numbers = f"{len(found)} | {count['killed']} | {count['alive']} | {count['equivalent']}"
        lines.append(f"| {room} | {numbers} | {share} | {count['noticed before']} |")
        total = count
    undecided = {"stale": "stale", "broken": "broken", "slow": "still undecided when their time was up"}
    undecided |= {"not run": "not run"}
    rest = ", ".join(f"{total[name]} {said}" for name, said in undecided.items() if total[name])
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "diffusers", "pytest"))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    parts = [
        "# Mistakes that the tests notice",
        "`python -m benchmarks.mutations` applies the mistakes written in `benchmarks/mutations/rooms` one at a time "
        "and runs the tests that belong to the file (`benchmarks/mutations/choice.py`), not the whole suite. Noticed "
        "is the share of those killed among killed and alive; before are those that were killed when the lines around "
        "them were others, not run since.",
        f"{date}, CPU, {python}, {versions}. Measured: {total['killed'] + total['alive']} of "
        f"{sum(total.values())}, some that a review had named and the rest in random order.",
        "\n".join(lines),
        f"Not counted: {rest}." if rest else "",
    ]
    for outcome, heading in (("alive", "Alive"), ("equivalent", "Equivalent")):
        listed = [row for room in rows.values() for row in room if row["outcome"] == outcome]
        if listed:
            parts.append(f"## {heading}")
            parts.append("\n".join(f"- `{r['file']}`: {r['name']}" + why(r, outcome) for r in listed))
    return "\n\n".join(part for part in parts if part) + "\n"


def why(row: dict[str, Any], outcome: str) -> str:
    """The reason of an equivalent mutation."""
    return f" ({row['by']})" if outcome == "equivalent" else ""
