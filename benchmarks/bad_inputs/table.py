"""The table of a run."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bad_inputs.accepted import reason
from benchmarks.bad_inputs.inputs import Outcome


def faults(found: Iterable[Outcome]) -> Iterator[Outcome]:
    """The outcomes that must not be."""
    for outcome in found:
        refused, accepted = outcome.kind == "refused", outcome.kind in ("accepted", "warned")
        good = (
            (outcome.expected == "either" and (refused or accepted))
            or (outcome.expected == "ok" and accepted)
            or (outcome.expected == "refuse" and (refused or outcome.kind == "warned"))
            or (outcome.expected == "refuse" and accepted and reason(outcome.key) is not None)
        )
        if not good:
            yield outcome


def group_of(outcome: Outcome) -> str:
    """The row of an outcome."""
    return outcome.key.split(": ", 1)[0]


def write(path: Path, found: Sequence[Outcome], total: int) -> None:
    """Write the counts by group of the outcomes so far of ``total`` inputs, and what was accepted and why."""
    import jsonargparse
    import lightning
    import torch

    wrong = {outcome.key for outcome in faults(found)}
    lines = [
        "# Bad inputs",
        "",
        "`python -m benchmarks.bad_inputs --table benchmarks/results/bad_inputs.md`",
        "",
        f"{len(found)} of the {total} inputs, {datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, Lightning {lightning.__version__}, jsonargparse {jsonargparse.__version__}. "
        "Refused: exit code 2 and one sentence. Warned: the run says what is wrong with it. Accepted: for the reasons "
        "below. Faults: tracebacks, sentences in a library's words, stopped after the time limit, accepted without a "
        "reason.",
        "",
        "| inputs | number | refused | warned | accepted | faults |",
        "|---|---|---|---|---|---|",
    ]
    for group in [*dict.fromkeys(map(group_of, found)), ""]:
        own = [outcome for outcome in found if group in ("", group_of(outcome))]
        kinds = Counter(outcome.kind for outcome in own if outcome.key not in wrong)
        numbers = (len(own), *(kinds[kind] for kind in ("refused", "warned", "accepted")), len(own) - kinds.total())
        lines.append(f"| {group or 'all'} | {' | '.join(map(str, numbers))} |")
    why: dict[str, list[str]] = {}
    for outcome in found:
        if outcome.kind == "accepted" and outcome.expected == "refuse" and outcome.key not in wrong:
            why.setdefault(reason(outcome.key) or "", []).append(outcome.key.split(": ", 1)[1])
    if wrong:
        lines += ["", "## Faults", ""]
        lines += [
            f"- {outcome.kind}: `{outcome.key}`: {outcome.said[:120]!r}" for outcome in found if outcome.key in wrong
        ]
    lines += ["", "## Accepted, and why", ""]
    for text, keys in why.items():
        lines.append(
            f"- {text} ({len(keys)}): " + ", ".join(f"`{key}`" for key in keys[:12]) + ", ..." * (len(keys) > 12)
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
