"""Commands that answer without torch or Lightning: they read run folders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from fastgen.errors import UserError


def run(words: Sequence[str]) -> int:
    """Run ``compare``, ``report`` or ``scores``; user errors become one sentence on stderr and exit code 2."""
    try:
        command_of(words[0])(words[1:])
    except UserError as error:
        print(f"fastgen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def command_of(name: str) -> Callable[[Sequence[str]], None]:
    """The function behind a command."""
    if name == "compare":
        from fastgen.commands.compare import compare

        return compare
    if name == "report":
        from fastgen.commands.report import report

        return report
    from fastgen.commands.scores import scores

    return scores
