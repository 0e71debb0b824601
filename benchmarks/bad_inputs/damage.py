"""Ways in which a file can be bad, whatever it should hold."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.bad_inputs.inputs import Expected

Damage = Callable[[Path], object]
"""Turns a good file into a bad one in place."""

DEEP = 100_000
"""Levels of nesting."""


def replaced(content: bytes) -> Damage:
    """Other content."""

    def damage(path: Path) -> None:
        path.write_bytes(content)

    return damage


def cut(share: float) -> Damage:
    """Only the first part."""

    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return damage


def flipped(seed: int, bits: int) -> Damage:
    """Bits that changed somewhere."""

    def damage(path: Path) -> None:
        data, chance = bytearray(path.read_bytes()), random.Random(seed)
        for _ in range(bits):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(data))

    return damage


def moved(make: Callable[[Path], object]) -> Damage:
    """Something else in the place of the file."""

    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def grown(path: Path) -> None:
    """Bytes after the end."""
    path.write_bytes(path.read_bytes() + b"\0" * 4096)


def noise(seed: int, size: int) -> bytes:
    """Bytes that mean nothing."""
    return random.Random(seed).randbytes(size)


def any_file() -> Iterator[tuple[str, Damage, Expected]]:
    """Damage of every kind of file."""
    yield "missing", moved(lambda path: None), "refuse"
    yield "a folder", moved(lambda path: path.mkdir()), "refuse"
    yield "a link to itself", moved(lambda path: path.symlink_to(path.name)), "refuse"
    yield "a link to nowhere", moved(lambda path: path.symlink_to("nowhere")), "refuse"
    yield "a pipe", moved(lambda path: os.mkfifo(path)), "refuse"
    yield "empty", replaced(b""), "refuse"
    for i, size in enumerate((1, 64, 5000)):
        yield f"{size} bytes of noise", replaced(noise(i, size)), "refuse"
    yield "zeros", replaced(b"\0" * 4096), "refuse"
    yield "words", replaced(b"this is none of it\n"), "refuse"
    yield "a web page", replaced(b"<!doctype html><html><body>404 Not Found</body></html>\n"), "refuse"
    yield (
        "a pointer of Git LFS",
        replaced(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "refuse",
    )


def binary_file(flips: int = 3, expected: Expected = "refuse") -> Iterator[tuple[str, Damage, Expected]]:
    """Damage of a file of tensors or pixels; ``expected`` is of flipped bits, which only check sums show."""
    yield from any_file()
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        yield f"cut at {share:.1%}", cut(share), "refuse"
    for seed in range(flips):
        yield f"flipped bits #{seed}", flipped(seed, 3), expected
    yield "longer", grown, "either"
    yield "a pickle", replaced(b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94."), "refuse"


def text_file(expected: Expected = "refuse") -> Iterator[tuple[str, Damage, Expected]]:
    """Damage of any file of text; ``expected`` is of words that only a format would refuse."""
    for name, damage, wanted in any_file():
        words = name in ("words", "a web page", "a pointer of Git LFS")
        yield name, damage, expected if words else "either" if name == "1 bytes of noise" else wanted
    yield "UTF-16", recoded("utf-16"), "refuse"
    yield "UTF-16 without a mark", recoded("utf-16-le"), "refuse"
    yield "UTF-32", recoded("utf-32"), "refuse"
    yield "Latin-1", with_suffix("\u00e9".encode("latin-1")), "refuse"
    yield "a NUL", with_suffix(b"\0"), "refuse"
    yield "a mark of byte order", with_prefix(b"\xef\xbb\xbf"), "either"
    yield "two marks of byte order", with_prefix(b"\xef\xbb\xbf" * 2), "either"


def recoded(encoding: str) -> Damage:
    """The same text in another encoding."""

    def damage(path: Path) -> None:
        path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))

    return damage


def with_prefix(content: bytes) -> Damage:
    """Bytes before the beginning."""

    def damage(path: Path) -> None:
        path.write_bytes(content + path.read_bytes())

    return damage


def with_suffix(content: bytes) -> Damage:
    """Bytes after the end."""

    def damage(path: Path) -> None:
        path.write_bytes(path.read_bytes() + content)

    return damage


def json_file() -> Iterator[tuple[str, Damage, Expected]]:
    """Damage of a file of JSON."""
    yield from text_file()
    for share in (0.1, 0.5):
        yield f"cut at {share:.0%}", cut(share), "refuse"
    yield "without its end", lambda path: path.write_bytes(path.read_bytes().rstrip()[:-1]), "refuse"
    yield "deep lists", replaced(b"[" * DEEP), "refuse"
    yield "deep lists that close", replaced(b"[" * 200 + b"]" * 200), "refuse"
    yield "deep objects", replaced(b'{"a":' * 900 + b"1" + b"}" * 900), "refuse"
    yield "a number of 5000 digits", replaced(b"9" * 5000), "refuse"
    for value in (None, 3, -1.5, "text", True, [], [[]], {}, [1, 2], {"a": 1}, [{"a": None}]):
        yield f"{json.dumps(value)}", replaced(json.dumps(value).encode()), "refuse"
    yield "NaN", replaced(b"NaN"), "refuse"
    yield "half of a character", replaced(b'["\\ud800"]'), "refuse"
