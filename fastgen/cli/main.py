"""``fastgen COMMAND``: finds the command in the table and runs it; what goes wrong is one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from fastgen import __version__
from fastgen.cli.table import COMMANDS, Command, help_text
from fastgen.errors import ParserError, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 good, 2 the user's mistake, 130 interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if words[0] in ("-V", "--version"):
        print(f"fastgen {__version__}")
        return 0
    if words[0] not in COMMANDS:
        from fastgen.messages import near, short

        names = list(COMMANDS)
        said = f"'{short(words[0])}' is no command{near(words[0], names)}; choose one of: {', '.join(names)}."
        print(f"fastgen: {said}", file=sys.stderr)
        return 2
    return run(COMMANDS[words[0]], words[1:])


def run(command: Command, words: Sequence[str]) -> int:
    """Run a command; user errors become one sentence on standard error and exit code 2."""
    try:
        if not command.light:
            from jsonargparse import set_parsing_settings

            set_parsing_settings(import_path_denylist=[])  # its own: os, subprocess, pickle, ... are not imported
        command.function()(words)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if command.light and isinstance(error, BrokenPipeError):  # whoever read the output, e.g. head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        said = sentence_of(error)
        if said is None:
            raise
        sys.stderr.write(f"fastgen{rank()}: {said}\n")  # one call: ranks write at once
        return 2
    return 0


def sentence_of(error: Exception) -> str | None:
    """What a user is told of an error; ``None`` of one that is a bug."""
    from fastgen.messages import as_sentence, one_sentence
    from fastgen.refusals import refused

    said = error if isinstance(error, UserError) or is_lightnings(error) else refused(error)
    if said is None:
        return None
    return one_sentence(str(said)) if isinstance(said, ParserError) else as_sentence(str(said))


def is_lightnings(error: Exception) -> bool:
    """Whether Lightning complains about its options; it is not imported for that."""
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    return lightning is not None and isinstance(error, lightning.MisconfigurationException)


def rank() -> str:
    """Which of several processes speaks, if it is not the first."""
    lightning = sys.modules.get("lightning.pytorch.utilities.rank_zero")
    number = getattr(getattr(lightning, "rank_zero_only", None), "rank", None)
    return f" (rank {number})" if number else ""
