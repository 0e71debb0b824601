"""What other libraries complain about, as one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

MOST_NAMES = 200
"""Characters of a list of names in a sentence."""

LONGEST_WORD = 255
"""Characters; a file's name may have as many."""

COMPLAINTS = (
    (r"Function (\S+) in place of a class", "'{0}' is a function; give the path of a class."),
    (
        r"Importing '(\S+?)' is not allowed",
        "'{0}' is nothing that a configuration may name; give a class of fastgen or one of your own.",
    ),
    (r"Option '(.+?)' is not accepted", "has no option '{0}'; remove it or mend its spelling."),
    (r"Expected a typing\.Literal\[(.+?)\]\. Got value: (.+)", "must be one of {0}, got '{1}'."),
    (r"Expected an? (?:<class ')?(.+?)(?:'>)?\. Got value: (.+)", "must be of type {0}, got '{1}'."),
    (
        r"Expected a dot import path string: (\S+)",
        "'{0}' is no known class; give a class name of fastgen or module.Class.",
    ),
    (r"Expected a path but (\S+) either", "'{0}' is no known class; give a class name of fastgen or module.Class."),
    (
        r"Multiple subclasses with name (\S+)\. Give the full class path to avoid ambiguity: (.+)",
        "there are several classes called {0}; write one of {1}.",
    ),
    (r"Import path (\S+) does not correspond to a subclass of (\S+)", "{0} is no {1}; give a class of that kind."),
    (r"module '(.+?)' has no attribute '(.+?)'", "there is no '{1}' in {0}; mend the name."),
    (r"No module named '(.+?)'", "there is no module '{0}'; install it or mend the name."),
    (r"the following arguments are required: (.+)", "something is missing; give {0}."),
    (r"argument (?:-\w/)?(\S+): expected (?:one|at least one) argument", "{0} needs a value; give one."),
    (r"argument (\S+): invalid int value: (.+)", "{0} must be an integer, got {1}."),
    (r"argument (\S+): invalid float value: (.+)", "{0} must be a number, got {1}."),
    (r"argument (\S+): invalid choice: (.+) \(choose from (.+)\)", "{0} must be one of {2}, got {1}."),
    (r"argument (\S+): ignored explicit argument (.+)", "{0} takes no value, got {1}."),
    (r"ambiguous option: (\S+) could match (.+)", "{0} may mean {1}; write the option out."),
    (r"File does not exist: '(.+?)'", "'{0}' does not exist; give the path of an existing file."),
    (r"unrecognized arguments: (.+)", "there is no option {0}; see 'fastgen COMMAND --help'."),
    (r"Expected '(.+?)' to be a subclass of <class '(.+?)'>", "{0} is no {1}; give a class of that kind."),
    (r"does not accept option '(.+?)'", "there is no option '{0}'; remove it or mend its spelling."),
)
"""Complaints of jsonargparse, most specific first, and what a user should read instead."""


def as_sentence(text: str) -> str:
    """A text of several lines and sentences as one sentence, in which no word is endless."""
    line = re.sub(r"\s+", " ", text).strip().rstrip(" .")
    line = re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda found: f"{found[0][:60]}...{found[0][-30:]}", line)
    joined = re.sub(r"(?<!e\.g)(?<!i\.e)[.!?]+ (?=[A-Z])", "; ", line)
    return re.sub(r"; ([A-Z])(?=[a-z ])", lambda found: found[0].lower(), joined) + "."


def cause_of(error: BaseException) -> str:
    """What an error of another library says, as a clause: its first line, without paths into libraries."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or holds itself"
    if isinstance(error, ImportError) and error.name:
        return f"there is no module '{error.name}' here"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return as_sentence(lines[0]).rstrip(".")[:200] if lines else type(error).__name__


def shown(value: object) -> str:
    """What was written, as YAML would write it, short enough to be repeated."""
    if isinstance(value, str):
        return f"'{short(value)}'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return short(str(value))
    except ValueError:  # Python refuses to write thousands of digits
        return "a number of thousands of digits"


def short(text: object, most: int = 60) -> str:
    """A text on one line with no more than its first characters."""
    line = re.sub(r"\s+", " ", str(text))
    return line if len(line) <= most else f"{line[:most]}..."


def near(name: str, known: Sequence[str]) -> str:
    """What is spelt alike, in brackets after an unknown name; else nothing."""
    by_lower = {k.lower(): k for k in known}
    found = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
    return f" (did you mean '{by_lower[found[0]]}'?)" if found else ""


def named(names: Sequence[str]) -> str:
    """Names with commas, as many as fit."""
    text = ", ".join(names)
    return text if len(text) <= MOST_NAMES else f"{text[:MOST_NAMES].rpartition(', ')[0]} and more"


def one_sentence(message: str) -> str:
    """The deepest known complaint in jsonargparse's nested message, after the dotted key that it is about."""
    message = re.sub(r"\b(?:fit|validate|test|predict)\.(model|data|trainer)\b", r"--\1", message)
    keys: list[tuple[int, str]] = []
    known: tuple[int, str] | None = None
    other: tuple[int, str] | None = None
    for line in message.splitlines():
        text = line.lstrip(" -")
        indent = len(line) - len(text)
        if key := re.match(r'Parser key "(.+?)":', text):
            keys = [*(k for k in keys if k[0] < indent), (indent, key[1])]
        place = ".".join(k for _, k in keys)
        prefix = f"{place}: " if place else ""
        matches = ((re.search(pattern, text), sentence) for pattern, sentence in COMPLAINTS)
        match, sentence = next(((m, s) for m, s in matches if m and "NoneType" not in m[0]), (None, ""))
        if match and (known is None or indent > known[0]):
            joint = " " if place and sentence.startswith(("has ", "must ", "lacks ")) else ""
            known = indent, (prefix.rstrip(": ") + joint if joint else prefix) + sentence.format(*match.groups())
        elif (
            line.lstrip().startswith("- ")
            and not text.startswith(("Expected a <class", "Parser key"))
            and (other is None or indent > other[0])
        ):
            other = indent, prefix + text
    return as_sentence((known or other or (0, message))[1])
