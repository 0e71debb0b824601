"""Commands that answer without torch or Lightning: they read run folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from fastgen.errors import UserError
from fastgen.messages import as_sentence
from fastgen.refusals import refused


def run(words: Sequence[str]) -> int:
    """Run ``compare``, ``report`` or ``scores``; user errors become one sentence on stderr and exit code 2."""
    try:
        command_of(words[0])(words[1:])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        said = error if isinstance(error, UserError) else refused(error)
        if said is None:
            raise
        print(f"fastgen: {as_sentence(str(said))}", file=sys.stderr)
        return 2
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
