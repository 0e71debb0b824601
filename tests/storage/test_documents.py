"""Texts, JSON and YAML of files: each failure is one sentence with the place and the mend that fits the cause."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastgen.errors import Malformed, UserError
from fastgen.storage.documents import NODES, lines_of, parse_json, read_json, read_text, read_yaml
from fastgen.storage.files import load_tensors, load_torch, resolve, sha256

SEPARATORS = ["\u2028", "\u2029", "\x85", "\r", "\x0b", "\x0c", "\x1c"]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_only_newlines_end_a_line(separator: str) -> None:
    assert lines_of(f"a fox{separator}red\r\n\n  a cat \n") == [(1, f"a fox{separator}red"), (3, "a cat")]


def test_marks_of_byte_order_are_no_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n\xef\xbb\xbf\n")
    assert [line for _, line in lines_of(read_text(tmp_path / "a.txt"))] == ["one", "two"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("a\nhé\n".encode("latin-1"), "not UTF-8, as seen in line 2; save it as UTF-8"),
        ("a fox".encode("utf-16"), "it is UTF-16, not UTF-8; save it as UTF-8"),
        ("a fox".encode("utf-16-be"), "it holds a NUL in line 1; save it as plain text"),
        (b"a\nb\0c\n", "it holds a NUL in line 2"),
    ],
)
def test_other_encodings_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=said):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is not JSON, as seen at column 1"),
        ('{"a": 1,\n "b" 2}', "it is not JSON, as seen at line 2, column 6"),
        ("[" * 100_000, "nested more than 64 levels deep"),
        ("[" * 65 + "]" * 65, "nested more than 64 levels deep"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested more than 64 levels deep"),
        ("9" * 5000, "a number of thousands of digits"),
        ('[{"a": 1, "b": 2, "a": 3}]', "it has 'a' twice in one object"),
        ('{"a": ["\\ud800"]}', "half of a character"),
        ('{"\\udfff": 1}', "half of a character"),
    ],
)
def test_bad_json(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=rf"a\.json' is damaged \(.*{said}.*\); make it again\.$"):
        read_json(tmp_path / "a.json", "make it again")


def test_good_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("\ufeff" + "[" * 60 + '"😀"' + "]" * 60, encoding="utf-8")
    value = read_json(tmp_path / "a.json", "")
    for _ in range(60):
        (value,) = value
    assert value == "😀"


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [1, *a]", "holds itself by an alias, as seen at line 1, column 4; write the values out"),
        ("&a {b: {c: *a}}", "holds itself by an alias"),
        (LAUGHS, f"more than {NODES:,} values"),
        ("a: 1\nb: 2\na: 3\n", "it has 'a' twice in the mapping at line 1, column 1; remove one"),
        ("[" * 80 + "]" * 80, "nested more than 64 levels deep"),
        ("[" * 100_000, "nested more than 64 levels deep"),
        ("a: [1, 2", "is not YAML, as seen at line 1, column 9; mend its brackets"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML, as seen at line 1, column 4"),
        ("a: 1\n--- \nb: 2", "is not YAML, as seen at line 2"),
        ("a: \x07", "unprintable characters"),
        ("a: 2020-13-45", "a date or number that does not exist"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_yaml(tmp_path / "a.yaml")


def test_good_yaml_may_repeat_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {b: 1}\nc: {<<: *a, d: 2}\ne: *a\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}, "e": {"b": 1}}


def loop(path: Path) -> None:
    path.symlink_to(path)


def deny(path: Path) -> None:
    path.write_text("x")
    if os.geteuid() == 0:  # root may read everything
        pytest.skip("needs an ordinary user")
    path.chmod(0)


CAUSES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda path: None, "does not exist"),
    (lambda path: path.mkdir(), "is a folder; give"),
    (loop, "is a link that leads to itself; replace it"),
    (lambda path: path.symlink_to(path.with_name("gone")), "does not exist"),
    (deny, "may not be read; change its permissions"),
    (lambda path: os.mkfifo(path), "is no ordinary file"),
]


@pytest.mark.parametrize(("make", "said"), CAUSES)
@pytest.mark.parametrize("read", [read_text, load_tensors, load_torch])
def test_each_cause_has_its_own_mend(tmp_path: Path, make: Callable[[Path], Any], said: str, read: Any) -> None:
    make(tmp_path / "file")
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path / "file")
    assert "again" not in str(caught.value)


@pytest.mark.parametrize("path", ["x" * 300, "a/" * 3000, "file/below"])
def test_paths_that_cannot_be(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    for read in (resolve, read_text, load_tensors, sha256):
        with pytest.raises(UserError, match=r"too long a name|not below a folder") as caught:
            read(tmp_path / path)
        assert str(caught.value).endswith(".")


def test_permission_denied_is_said_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"a\.txt' may not be read; change its permissions"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(UserError, match="may not be read"):
        sha256(tmp_path / "a.txt")


def test_messages_can_be_printed_anywhere() -> None:
    message = str(UserError(f"'{os.fsdecode(b'caf' + bytes([0xE9]))}.png' is bad."))
    assert message == "'caf\\udce9.png' is bad." and message.encode()
