"""Options that make no sense are refused before anything is read, and places that cannot be written before any work."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from command_line import fastgen

from fastgen.cli.commands.parser import integers
from fastgen.cli.main import main
from fastgen.cli.table import Command
from fastgen.errors import UserError
from fastgen.refusals import refuse_unwritable, refused

SAMPLE = ("sample", "--ckpt", "gone.ckpt")
PAIRS = ("pairs", "--ckpt", "gone.ckpt")
EXPORT = ("export", "--ckpt", "gone.ckpt", "--out", "new")
STATS = ("stats", "--data", "gone", "--extractor", "DigitsClassifier", "--out", "r.safetensors")
HUGE = str(10**30)

BAD: list[tuple[tuple[str, ...], str]] = [
    ((*SAMPLE, "--seeds", "5-1"), "counts down from 5 to 1"),
    ((*SAMPLE, "--seeds", ""), "is no list of numbers"),
    ((*SAMPLE, "--seeds=-3"), "'-3' is no list of numbers"),
    ((*SAMPLE, "--seeds", "0-99999999999"), "more than 1,000,000 numbers"),
    ((*SAMPLE, "--seeds", "9999999999999999999"), "above 9223372036854775807"),
    ((*SAMPLE, "--seeds", "x" * 10_000), "is no list of numbers"),
    ((*SAMPLE, "--steps", "0"), "--steps must be at least 1, got 0"),
    ((*SAMPLE, "--steps", HUGE), "--steps must be at most 10000"),
    ((*SAMPLE, "--columns", "0"), "--columns must be at least 1"),
    ((*SAMPLE, "--batch-size", "-1"), "--batch-size must be at least 1"),
    ((*SAMPLE, "--device", "meta"), "--device meta holds no numbers"),
    ((*SAMPLE, "--device", "cuda:99"), "--device cuda:99 cannot be used"),
    ((*SAMPLE, "--device", "toaster"), "--device toaster cannot be used"),
    ((*SAMPLE, "--out", "folder.png"), "'folder.png' is a folder; give the name of a file"),
    ((*SAMPLE, "--out", "file.txt/below"), "is not below a folder"),
    ((*SAMPLE, "--out", "a.docx"), "'.docx' is no picture format"),
    ((*SAMPLE, "--out", "file"), "'file' is a file; give a folder"),
    ((*SAMPLE, "--out", "/proc/a.png"), "give another place"),
    ((*SAMPLE, "--out", "x" * 300 + ".png"), "too long a name"),
    ((*SAMPLE, "--layout", "plain", "--prompts", "p.txt", "--out", "o", "--per-prompt", "0"), "--per-prompt must be"),
    ((*SAMPLE, "--layout", "plain", "--prompts", "p.txt", "--out", "o", "--first-seed", "-1"), "--first-seed must be"),
    ((*SAMPLE, "--layout", "plain", "--prompts", "p.txt", "--out", "file"), "'file' is a file"),
    ((*PAIRS, "--count", "0"), "--count must be at least 1"),
    ((*PAIRS, "--first-seed=-1"), "--first-seed must be at least 0"),
    ((*PAIRS, "--steps", "0"), "--steps must be at least 1"),
    ((*PAIRS, "--threads", "-1"), "threads must be at least 1"),
    ((*PAIRS, "--part", "2/2"), "--part is i/n"),
    ((*PAIRS, "--part=-1/2"), "--part is i/n"),
    ((*PAIRS, "--out", "file"), "'file' is a file"),
    ((*PAIRS, "--device", "meta"), "--device meta"),
    ((*EXPORT, "--steps", "0"), "--steps must be at least 1"),
    ((*EXPORT[:-1], "file"), "'file' is a file"),
    ((*STATS, "--resolution", "0"), "--resolution must be at least 1"),
    ((*STATS, "--num_workers", "-1"), "--num-workers must be at least 1"),
    ((*STATS, "--count", "1"), "--count must be at least 2"),
    ((*STATS[:-1], "/proc/x.safetensors"), "give another place"),
    ((*STATS[:-1], "folder.safetensors"), "is a folder"),
    (("report", "gone", "--out", "/proc/zz"), "give another place"),
    (("report", "gone", "--out", "file"), "'file' is a file"),
    (("report", "gone", "--steps", "0"), "--steps must be at least 1"),
    (("report", "gone", "--seeds", ""), "is no list of numbers"),
    (("scores", "gone", "geneval=x", "--updates", "-1"), "--updates must be at least 0"),
    (("scores", "gone", "geneval=x", "--nfe", "0"), "--nfe must be at least 1"),
]


def test_bad_options_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder.png", "folder.safetensors"):
        (tmp_path / folder).mkdir()
    for file in ("file", "file.txt", "p.txt"):
        (tmp_path / file).write_text("a cat\n")
    before = sorted(tmp_path.rglob("*"))
    for words, said in BAD:
        code = fastgen(*words)
        err = capfd.readouterr().err
        lines = [line for line in err.splitlines() if line.startswith("fastgen")]
        assert code == 2 and len(lines) == 1 and said in lines[0] and lines[0].endswith("."), (words, err)
    assert sorted(tmp_path.rglob("*")) == before


def test_lists_of_numbers() -> None:
    assert integers("0-2, 7,1") == [0, 1, 2, 7, 1]
    for text in ("1,,2", "1-", "-", "1-2-3", "1.5", "²", "1e3", "0x1"):
        with pytest.raises(UserError, match="is no list of numbers"):
            integers(text)


def test_places_that_can_be_written_are_left_as_they_are(tmp_path: Path) -> None:
    assert refuse_unwritable(tmp_path / "a" / "b.png") == tmp_path / "a" / "b.png"
    assert refuse_unwritable(tmp_path, folder=True) == tmp_path
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (OSError(errno.EFBIG, "File too large", "a.ckpt"), "'a.ckpt' is larger than a file may be here"),
        (OSError(errno.EROFS, "Read-only file system", "a"), "on a disk that may only be read; give another place"),
        (PermissionError(errno.EACCES, "Permission denied", b"a\xff"), "may not be read; change its permissions"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), "'a.txt' does not exist"),
        (OSError("odd"), "The system refuses something \\(odd\\)"),
        (MemoryError(), "not enough memory; take smaller batches"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "no text in UTF-8"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(error: Exception, said: str) -> None:
    found = refused(error)
    assert found is not None
    with pytest.raises(UserError, match=said):
        raise found
    assert refused(ValueError("a bug")) is None


def test_the_reader_of_a_table_may_stop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def print_into_a_closed_pipe(words: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr(Command, "function", lambda command: print_into_a_closed_pipe)
    monkeypatch.setattr(os, "dup2", lambda *handles: None)
    assert main(["compare"]) == 141
