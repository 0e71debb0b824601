"""The table of commands is what the command line, its help and the documents are made from."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment

from fastgen.cli.table import COMMANDS, help_text

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_help_lists_every_command_once():
    listed = re.findall(r"^  ([a-z]+) ", help_text().split("options:")[0], re.M)
    assert listed == list(COMMANDS)
    assert max(map(len, help_text().splitlines())) <= 120


def test_the_readme_has_every_command_in_a_table_and_no_other():
    shown = re.findall(r"^\| `fastgen ([a-z]+)[^|]*` \|", README, re.M)
    assert sorted(shown) == sorted(COMMANDS)


def test_documents_call_no_other_command():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "configs").rglob("*.yaml")]:
        text = page.read_text(encoding="utf-8")
        called = re.findall(r"`fastgen ([a-z]+)\b|^(?:#  *)?fastgen ([a-z]+) (?:--|RUN|[A-Z])", text, re.M)
        called = {word for pair in called for word in pair if word}
        assert called <= set(COMMANDS), page.name


def test_commands_are_written_where_the_table_says():
    """In a process of its own, in which light commands are asked for first: they must not import torch."""
    program = (
        "import sys\nfrom fastgen.cli.table import COMMANDS\n"
        "for command in sorted(COMMANDS.values(), key=lambda command: not command.light):\n"
        "    assert command.function().__name__ == command.name\n"
        "    assert not command.light or not {'torch', 'lightning'} & set(sys.modules), command.name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("word", ["samples", "reports"])
def test_a_misspelt_command_is_told_its_name(word: str, capsys: pytest.CaptureFixture[str]):
    from fastgen.cli.main import main

    assert main([word]) == 2
    assert f"'{word}' is no command (did you mean '{word.removesuffix('s')}'?)" in capsys.readouterr().err
