"""Progress is seen on every terminal, and in files as lines."""

from __future__ import annotations

import io
import os
import sys
from weakref import WeakSet

import pytest
from tqdm import tqdm

from fastgen.callbacks.bars import Lines, bar

try:
    import pty
except ImportError:
    pytest.skip("there are no pseudo-terminals here", allow_module_level=True)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch):
    """Bars that other tests left open push these down, where tqdm hides them."""
    monkeypatch.setattr(tqdm, "_instances", WeakSet(), raising=False)


def run() -> None:
    with bar(total=3, desc="training", mininterval=0) as shown:
        for i in range(3):
            shown.set_postfix_str(f"student/match 0.{i}", refresh=False)
            shown.update()


class Terminal(io.StringIO):
    """Remembers what is shown on a terminal that is another one's end."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.end


@pytest.mark.parametrize("columns", [None, "0"])
def test_a_terminal_without_a_size(columns: str | None, monkeypatch: pytest.MonkeyPatch):
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    ends = pty.openpty()  # its size is 0 x 0
    terminal = Terminal(ends[1])
    monkeypatch.setattr(sys, "stderr", terminal)
    run()
    for end in ends:
        os.close(end)
    text = terminal.getvalue()
    assert "training:" in text and "3/3" in text and "student/match 0.2" in text, repr(text)


def test_a_file_gets_lines(monkeypatch: pytest.MonkeyPatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    run()
    text = file.getvalue()
    assert "\r" not in text and "\x1b" not in text and text.endswith("\n")
    lines = text.splitlines()
    assert len(lines) <= 5 and "student/match 0.2" in lines[-1]


def test_a_state_is_written_once():
    file = io.StringIO()
    lines = Lines(file)
    for text in ("\ra: 1", "\ra: 1  ", "\n", "\x1b[A", "\ra: 2", "\r"):
        lines.write(text)
    assert file.getvalue() == "a: 1\na: 2\n"
